"""A forest that undoes noise and bounds a row in each class of a label, all classes in one pass."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genzoo.likelihood.noise import RowNoise
from genzoo.models.posterior import class_names, codes_of
from genzoo.models.scored_rows import chunks
from genzoo.models.scoring import split_unseen
from genzoo.models.trees.base import TreeModel
from genzoo.tables.batch import HOLE

if TYPE_CHECKING:
    from genzoo.codecs.matrix import MatrixCodec, Rows
    from genzoo.tables.encode import TableData


class LabelledForest(TreeModel):
    """An ensemble that may have a label, and so knows the label given the rest. Abstract."""

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
    def label_column(self) -> str | None:
        return self.label

    @property
    def likelihood_remark(self) -> str:
        return "" if self.class_mix is None else ", classes mixed as given"

    def log_joint_of_classes(
        self, data: TableData, column: str, seed: int | None = None, draws: int | None = None
    ) -> NDArray[np.float64]:
        """For the label, all classes share one walk through the levels."""
        if column != self.label:
            return super().log_joint_of_classes(data, column, seed, draws)
        self.require_likelihood()
        seed, draws = self.seed if seed is None else seed, self.draws if draws is None else draws
        if draws < 1:
            raise ValueError(f"draws must be at least 1, got {draws}")
        data = replace(data, codes=data.codes.copy())
        codes_of(data, column)[:] = HOLE  # whatever a row's own label is, it is not read
        found = [np.empty((0, len(class_names(self, column))))]
        for batch in chunks(data, 4096):
            unseen = split_unseen(batch, self.schema)
            rows: Rows = self.codec.encode(unseen.batch.to(self.device)).to("cpu")
            log_w = self.class_log_weights(rows, RowNoise(seed, rows.rows), draws, every=True)
            impossible = (rows.outside | unseen.impossible)[:, None]
            found.append(torch.where(impossible, -torch.inf, torch.logsumexp(log_w, 1).double()).numpy())
        return np.concatenate(found)
