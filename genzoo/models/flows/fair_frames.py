"""Fair representations as frames: codes in columns, and the way back to the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from genzoo.errors import DataError
from genzoo.models.flows.fair_points import FairPoints
from genzoo.tables.batch import TableBatch

if TYPE_CHECKING:
    from genzoo.models.flows.fair_flow import FairFlow

CHUNK = 8192


def encode_table(model: FairFlow, table: Any, seed: int, keep: Sequence[str], backend: str) -> Any:
    """See :meth:`genzoo.models.flows.fair_flow.FairFlow.encode`."""
    from genzoo.tables.encode import encode_frame
    from genzoo.tables.frames import read_frame

    frame = read_frame(table, schema=model.schema)
    unknown = sorted(set(keep) - set(frame.columns))
    if unknown:
        raise DataError(f"no column '{unknown[0]}' to keep; the table has {', '.join(frame.columns)}")
    needed = [c.name for c in (*model.features.scored, *model.codec.sensitive)]
    data = encode_frame(frame, model.schema, require=needed)
    codes = torch.cat(
        [
            model.codes_of(data.select(slice(start, start + CHUNK)).batch().to(model.device), seed).cpu()
            for start in range(0, len(data), CHUNK)
        ]
    )
    if isinstance(model.fair, FairPoints):
        columns = {f"z{i + 1}": codes[:, i].numpy() for i in range(codes.shape[1])}
    else:
        columns = _columns_of(model, model.fair.states.batch(codes.to(model.device)).to("cpu"))
    twice = sorted(set(keep) & set(columns))
    if twice:
        raise DataError(f"column '{twice[0]}' is part of the representation and cannot be kept beside it")
    kept = {name: frame.get_column(name).to_list() for name in keep}
    return _frame(columns | kept, backend)


def decode_table(model: FairFlow, table: Any, seed: int, backend: str) -> Any:
    """See :meth:`genzoo.models.flows.fair_flow.FairFlow.decode`."""
    from genzoo.tables.encode import decode_table as decoded
    from genzoo.tables.encode import encode_frame
    from genzoo.tables.frames import read_frame

    names = [c.name for c in model.codec.sensitive]
    points = isinstance(model.fair, FairPoints)
    frame = read_frame(table)
    wanted = [f"z{i + 1}" for i in range(model.points.num_features)] if points else []
    wanted += [] if points else [c.name for c in model.features.scored]
    lacking = [name for name in (*wanted, *names) if name not in frame.columns]
    if lacking:
        hint = f" (genzoo encode --keep {','.join(names)})" if lacking[0] in names else ""
        raise DataError(
            f"the codes lack column '{lacking[0]}'; to go back, give {', '.join((*wanted[:2], '...', *names))}{hint}"
        )
    if points:
        frame_of_groups = frame.select(names)
    else:
        frame_of_groups = frame.select([*wanted, *names])
    data = encode_frame(frame_of_groups, model.schema, require=frame_of_groups.columns)
    batch = data.batch()
    group = model.codec.groups_of(batch)
    parts = []
    for start in range(0, len(batch), CHUNK):
        here = slice(start, start + CHUNK)
        if points:
            values = np.stack([frame.get_column(name).to_numpy().astype(np.float64)[here] for name in wanted], 1)
            codes = torch.from_numpy(values)
        else:
            assert not isinstance(model.fair, FairPoints)
            codes = model.fair.states.index(model.choose(batch.select(here)).codes.to(model.device))
        back = model.rows_of(codes.to(model.device), group[here].to(model.device), batch.rows[here], seed)
        parts.append(model.choose.put(back.to("cpu"), batch.select(here)))
    whole = TableBatch.concatenate(parts)
    out = replace(data, numeric=whole.numeric.numpy(), codes=whole.codes.numpy())
    full = decoded(out, model.schema, "pandas")
    chosen = [c.name for c in model.schema.columns if c.name in {f.name for f in model.features.scored} | set(names)]
    return _frame({name: full[name].tolist() for name in chosen}, backend, full[chosen])


def _columns_of(model: FairFlow, part: TableBatch) -> dict[str, Any]:
    """Columns of states in the table's own form."""
    from genzoo.tables.encode import TableData
    from genzoo.tables.encode import decode_table as decoded

    data = TableData(part.numeric.numpy(), part.codes.numpy(), part.rows.numpy(), schema=model.features)
    frame = decoded(data, model.features, "pandas")
    return {name: frame[name].tolist() for name in (c.name for c in model.features.scored)}


def _frame(columns: dict[str, Any], backend: str, like: Any = None) -> Any:
    import pandas as pd

    frame = pd.DataFrame(columns) if like is None else like.reset_index(drop=True)
    if backend == "pandas":
        return frame
    if backend == "pyarrow":
        import pyarrow as pa

        return pa.Table.from_pandas(frame, preserve_index=False)
    if backend == "polars":
        import polars as pl

        return pl.from_pandas(frame)
    raise ValueError(f"backend must be pandas, polars or pyarrow, got '{backend}'")
