"""What a forest that undoes noise says of a label given the rest of a row, by Bayes' rule."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from genzoo.errors import CapabilityError
from genzoo.likelihood.noise import RowNoise
from genzoo.models.scored_rows import collect
from genzoo.models.scoring import split_unseen
from genzoo.models.trees.base import TreeModel
from genzoo.tables.batch import HOLE

if TYPE_CHECKING:
    from genzoo.codecs.matrix import MatrixCodec, Rows
    from genzoo.likelihood.log_likelihood import LogLikelihood
    from genzoo.tables.encode import TableData


class LabelledForest(TreeModel):
    """An ensemble that bounds a row in each class of a label, and so knows the label given the rest. Abstract."""

    codec: MatrixCodec
    label: str | None
    class_mix: dict[str, float] | None

    @abstractmethod
    def require_likelihood(self) -> None:
        """Raises unless the model has a likelihood."""

    @abstractmethod
    def class_log_weights(self, rows: Rows, noise: RowNoise, draws: int, every: bool = False) -> Tensor:
        """``(n, draws, C)`` log-weights of the row in each class, the probability of the class in them."""

    @property
    def class_names(self) -> list[str]:
        """Of the label's column; a missing label that counts as a value is the last."""
        column = self.schema[self._label_or_refuse()]
        return [*map(str, column.categories), *(["missing"] * (column.missing == "value"))]

    @property
    def of_given_mix(self) -> str:
        """Words on a number that depends on a mix of classes which is not that of the training rows."""
        return "" if self.class_mix is None else ", classes mixed as given"

    def class_posterior(self, table: Any, *, seed: int | None = None, draws: int | None = None) -> Any:
        """Probability of each class given the rest of a row, by Bayes' rule from the bounds of the classes.

        An estimate without a known sign: the bound of one class may be tighter than that of another. The same noise is
        used for all classes, which makes their difference surer than either.

        Args:
            table: A frame, a path, or an encoded table; its label is not read and may be absent.
            seed: Seed of the noise; the model's own by default.
            draws: Importance weights a row.

        Returns:
            A pandas frame: a row for each row of the table, with the index of a pandas frame, a column for each class.

        Raises:
            CapabilityError: the model was trained without a label.
        """
        import pandas as pd

        label = self._label_or_refuse()
        log_w = self._posterior_log_prob(self._encoded_table(table, may_lack=[label]), seed, draws)
        index = table.index if isinstance(table, pd.DataFrame) else None
        return pd.DataFrame(log_w.exp().numpy(), index, self.class_names)

    def label_log_prob(self, table: Any, *, seed: int | None = None, draws: int | None = None) -> LogLikelihood:
        """Log-probability of each row's own label given the rest of the row, labelled ``estimate``.

        Rows without a label are left out (``rows`` says which stay); a label never seen in training gives ``-inf``.

        Args:
            table: A frame, a path, or an encoded table.
            seed: Seed of the noise; the model's own by default.
            draws: Importance weights a row.

        Raises:
            CapabilityError: the model was trained without a label.
        """
        label = self._label_or_refuse()
        data = self._encoded_table(table)
        columns = [column.name for column in data.schema.categorical for _ in range(column.width)]
        data = data.select(np.flatnonzero(data.codes[:, columns.index(label)] != HOLE))
        log_p = self._posterior_log_prob(data, seed, draws)
        batch = data.batch()
        group = self.codec.encode(split_unseen(batch, self.schema).batch).group
        own = log_p.gather(1, group.clamp_min(0)[:, None])[:, 0]
        own = torch.where(group >= 0, own, -torch.inf)
        whole = collect(self, [{"rows": batch.rows.numpy(), "values": own.numpy()}], data, 0, 0)
        others = tuple(name for name in (*whole.columns, *whole.context) if name != label)
        settings = {"draws": self.draws if draws is None else draws, "seed": self.seed if seed is None else seed}
        return replace(
            whole, kind="estimate", bias="unknown", columns=(label,), context=others, discrete=None,
            continuous=None, method=f"Bayes' rule on bounds{self.of_given_mix}", settings=settings,
        )  # fmt: skip

    def _label_or_refuse(self) -> str:
        if self.label is None:
            raise CapabilityError(f"this {type(self).__name__} has no label; train with --model.label COLUMN")
        return self.label

    def _posterior_log_prob(self, data: TableData, seed: int | None, draws: int | None) -> Tensor:
        self.require_likelihood()
        out = []
        for start in range(0, len(data), 4096):
            batch = split_unseen(data.select(slice(start, start + 4096)).batch().to(self.device), self.schema).batch
            rows: Rows = self.codec.encode(batch).to("cpu")
            noise = RowNoise(self.seed if seed is None else seed, rows.rows)
            log_w = self.class_log_weights(rows, noise, self.draws if draws is None else draws, every=True)
            out.append(torch.logsumexp(log_w, 1).log_softmax(1))
        return torch.cat(out)
