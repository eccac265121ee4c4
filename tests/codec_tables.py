"""Random schemas with rows that fit them, for hypothesis."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from genzoo.tables.batch import HOLE, TableBatch
from genzoo.tables.schema import Column, Schema

NAN = math.nan


@st.composite
def tables(draw: st.DrawFn) -> tuple[Schema, TableBatch]:
    """A random schema and rows that fit it, holes included."""
    columns, numbers, codes = [], [], []
    rows = draw(st.integers(1, 60))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def normal() -> Tensor:
        return torch.randn(rows, generator=g, dtype=torch.float64)

    for index in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(["continuous", "quantized", "mixed", "categorical", "binary"]))
        role = draw(st.sampled_from(["value", "value", "context"]))
        missing = draw(st.sampled_from(["hole", "value"]))
        shape = draw(st.sampled_from([(), (), (2, 2)]))
        base: dict[str, Any] = {"name": f"c{index}", "kind": kind, "role": role, "missing": missing, "shape": shape}
        width = math.prod(shape)
        holes = torch.rand(rows, width, generator=g) < draw(st.sampled_from([0.0, 0.3, 1.0]))
        if kind in ("categorical", "binary"):
            size = 2 if kind == "binary" else draw(st.integers(1, 20))
            column = Column(**base, categories=tuple(f"v{i}" for i in range(size)))
            code = torch.randint(0, size, (rows, width), generator=g)
            codes.append(torch.where(holes, size if missing == "value" else HOLE, code))
        else:
            unit = 10.0 ** draw(st.integers(-6, 6))
            shift = unit * draw(st.sampled_from([0.0, 1.0, -1000.0]))
            x = torch.stack([normal() * draw(st.sampled_from([1.0, 0.0])) for _ in range(width)], 1)
            x = shift + unit * (x.sinh() * 3 if draw(st.booleans()) else x)
            bounds = draw(st.sampled_from(["", "lower", "upper", "lower upper"])) if role == "value" else ""
            extra: dict[str, Any] = {}
            if kind == "quantized":
                extra = {"step": unit / 4, "origin": shift}
                x = shift + ((x - shift) / (unit / 4)).round() * (unit / 4)
            if "lower" in bounds:
                extra["lower"] = float(x.min()) - unit * draw(st.sampled_from([0.0, 1.0]))
            if "upper" in bounds:
                extra["upper"] = float(x.max()) + unit * draw(st.sampled_from([0.0, 1.0]))
            if extra.get("lower") is not None and extra.get("lower") == extra.get("upper") and kind != "quantized":
                extra["upper"] += unit
            if kind == "mixed" or (kind == "quantized" and draw(st.booleans())):
                extra["atoms"] = (float(x[0, 0]), float(x[0, 0]) + 2 * unit)
            column = Column(**base, **extra)
            numbers.append(torch.where(holes, NAN, x))
        columns.append(column)
    schema = Schema(tuple(columns))
    empty = torch.zeros(rows, 0)
    return schema, TableBatch(
        torch.cat([empty.double(), *numbers], 1), torch.cat([empty.long(), *codes], 1), torch.arange(rows) + 7
    )
