"""Synthetic data with a known log-density, so that every model stands beside the truth."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from genzoo.datamodules.base import Split, TableDataModule
from genzoo.datamodules.toys.mixed import MixedTable
from genzoo.datamodules.toys.planar import PLANAR
from genzoo.likelihood.noise import seed_of
from genzoo.tables.schema import Column, Schema

if TYPE_CHECKING:
    from genzoo.tables.encode import TableData

ToyName = Literal["two_moons", "eight_gaussians", "checkerboard", "rings", "circles", "pinwheel", "swiss_roll", "mixed"]


class Toy(TableDataModule):
    """Synthetic rows whose true log-likelihood is known: seven densities in the plane and one mixed-type table.

    The densities are defined in ``genzoo.datamodules.toys``: closed forms, or quadratures accurate to 1e-6 nats. The
    oracle is the mean of :meth:`oracle_log_prob` on the test rows; no model beats it by more than noise.

    Args:
        name: Which toy. ``mixed`` has continuous, quantized, mixed and categorical columns and holes.
        num_train: Training rows.
        num_val: Validation rows.
        num_test: Test rows.
        fresh: Draw new training rows every epoch, as a function of (seed, epoch): the infinite-data limit, without
            overfitting.
        holes: Share of missing cells in four columns of ``mixed``; the others are complete.
        batch_size: Training rows a step and device; ``None`` chooses from the number of rows.
        eval_batch_size: Rows a step in validation and test.
        seed: Seed of the rows and of their order.
        drop_last: Leave out the incomplete last training batch of each epoch.

    Example:
        >>> toy = Toy("two_moons", num_train=100, num_val=10, num_test=10)
        >>> len(toy.data("train")), toy.oracle_log_prob(toy.data("test")).shape
        (100, (10,))
    """

    def __init__(
        self,
        name: ToyName = "two_moons",
        num_train: int = 10_000,
        num_val: int = 2_000,
        num_test: int = 10_000,
        fresh: bool = False,
        holes: float = 0.1,
        batch_size: int | None = None,
        eval_batch_size: int = 4096,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        if name not in get_args(ToyName):
            raise ValueError(f"unknown toy '{name}'; use one of {', '.join(get_args(ToyName))}")
        if not 0 <= holes < 1:
            raise ValueError(f"holes is a share of cells, from 0 to below 1; got {holes}")
        for option, value in (("num_train", num_train), ("num_val", num_val), ("num_test", num_test)):
            if value < 1:
                raise ValueError(f"{option} must be at least 1, got {value}")
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, seed=seed, drop_last=drop_last)
        self.save_hyperparameters(logger=False)
        self.name = name
        self.num_rows: dict[Split, int] = {"train": num_train, "val": num_val, "test": num_test}
        self.fresh = fresh
        self.mixed = MixedTable(holes=holes)

    def draw(self, num_rows: int, *, stream: str, first_row: int = 0, schema: Schema | None = None) -> TableData:
        """Independent rows as a function of (seed, stream), numbered from ``first_row``."""
        from genzoo.tables.encode import TableData

        rng = np.random.default_rng(seed_of(self.seed, self.name, stream))
        if self.name == "mixed":
            numeric, codes = self.mixed.sample(num_rows, rng)
        else:
            numeric = PLANAR[self.name].sample(num_rows, rng)
            codes = np.empty((num_rows, 0), dtype=np.int64)
        rows = np.arange(first_row, first_row + num_rows, dtype=np.int64)
        return TableData(numeric=numeric, codes=codes, rows=rows, schema=schema or self._training_schema())

    def oracle_log_prob(self, data: TableData) -> NDArray[np.float64]:
        """``(rows,)`` true log-likelihood in nats; with holes, of the observed cells."""
        if self.name == "mixed":
            return self.mixed.log_prob(data.numeric, data.codes)
        return PLANAR[self.name].log_prob(data.numeric)

    def _training_schema(self) -> Schema:
        if self.name == "mixed":
            columns = self.mixed.schema().columns
        else:
            columns = (Column("x", "continuous"), Column("y", "continuous"))
        settings = seed_of(self.name, self.seed, str(self.mixed.holes), *self.num_rows.values())
        return Schema(
            columns,
            num_rows=sum(self.num_rows.values()),
            num_training_rows=self.num_rows["train"],
            fingerprint=f"{settings:016x}",
            source=self.name,
        )

    def _load(self) -> dict[Split, TableData]:
        splits: dict[Split, TableData] = {}
        first = 0
        for split, count in self.num_rows.items():
            splits[split] = self.draw(count, stream=split, first_row=first)
            first += count
        return splits

    def _refresh(self) -> Callable[[int], TableData] | None:
        if not self.fresh:
            return None
        return lambda epoch: self.draw(self.num_rows["train"], stream=f"epoch {epoch}")
