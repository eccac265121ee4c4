"""A zoo model inside another one: made from its catalogue key, it sees some columns and some rows of the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from genzoo.errors import GenZooError
from genzoo.likelihood.noise import seed_of
from genzoo.models.catalogue import model_class
from genzoo.tables.batch import TableBatch
from genzoo.tables.schema import Column, Schema

if TYPE_CHECKING:
    from genzoo.models.base import DensityModel
    from genzoo.models.stages import Stage


class ColumnChoice:
    """Rows of a table as rows of another schema with some of its columns (roles may differ), and back.

    Args:
        schema: The table's schema.
        part: A schema whose modelled columns all belong to it.
    """

    def __init__(self, schema: Schema, part: Schema) -> None:
        self.numeric = _places(schema.numeric, part.numeric)
        self.codes = _places(schema.categorical, part.categorical)

    def __call__(self, batch: TableBatch) -> TableBatch:
        """The same rows with the columns of the part."""
        return TableBatch(batch.numeric[:, self.numeric], batch.codes[:, self.codes], batch.rows, batch.weights)

    def put(self, part: TableBatch, into: TableBatch) -> TableBatch:
        """``into`` with the cells of ``part`` in their places."""
        numeric, codes = into.numeric.clone(), into.codes.clone()
        numeric[:, self.numeric] = part.numeric
        codes[:, self.codes] = part.codes
        return into.with_values(numeric, codes)


class SubModel(nn.Module):
    """A model of the catalogue, embedded: its weights are in the parent's state, its arguments in the parent's record.

    Args:
        key: Catalogue key, class name or class path.
        schema: The parent's schema.
        part: What the embedded model sees: some of the columns, with roles of their own.
        arguments: Its hyper-parameters; its seed follows from the parent's unless it is given here.
        seed: Seed of the parent.
        name: Told apart from other embedded models of the same parent.

    Raises:
        GenZooError: the model is itself trained in stages, or cannot take the columns.
    """

    def __init__(
        self, key: str, schema: Schema, part: Schema, arguments: dict[str, Any] | None, seed: int, name: str
    ) -> None:
        super().__init__()
        kind = model_class(key)
        if kind.capabilities.stages:
            raise GenZooError(f"{kind.__name__} is trained in stages and cannot be part of another model")
        given = {"seed": seed_of(seed, name) % 2**31, **(arguments or {})}
        self.choose = ColumnChoice(schema, part)
        self.model: DensityModel = kind(schema=part.to_dict(), **given)

    def fit_codec(self, batch: TableBatch) -> None:
        """Fits the codec and the starting values on training rows of the parent."""
        self.model.fit_codec_on(self.choose(batch))

    def loss(self, batch: TableBatch) -> Tensor:
        """Mean loss of the parent's rows; a zero that depends on the weights if there are none."""
        if not len(batch):
            return sum((p.sum() * 0.0 for p in self.model.parameters()), torch.zeros(()))
        return self.model.loss(self.model.codec.encode(self.choose(batch)))

    def log_prob(self, batch: TableBatch, draws: int | None = None) -> Tensor:
        """``(batch,)`` log-likelihood of the parent's rows in the units of the table, nats; no gradients."""
        model = self.model
        return model.score_batch(self.choose(batch), model.seed, model.draws if draws is None else draws).values

    def fit_closed_form(self, batches: Sequence[TableBatch], held_out: Sequence[TableBatch] = ()) -> None:
        """For a model without a loss: all training rows of the parent, and its validation rows."""
        model = self.model
        model.validation_source = (lambda: [self.choose(batch) for batch in held_out]) if held_out else None
        try:
            model.fit_closed_form([model.codec.encode(self.choose(batch)) for batch in batches if len(batch)])
        finally:
            model.validation_source = None

    def stage(
        self,
        name: str,
        epochs: int,
        rows: Callable[[TableBatch], TableBatch] = lambda batch: batch,
        held_out: Callable[[], Sequence[TableBatch]] = lambda: (),
        **options: Any,
    ) -> Stage:
        """The stage that trains this model by maximum likelihood, with its own learning rate and patience.

        Args:
            name: Name of the stage.
            epochs: Most epochs.
            rows: Chooses among the parent's rows (one group, one fold).
            held_out: Validation rows of the parent, for a closed form that chooses by them.
            options: Further fields of :class:`~genzoo.models.stages.Stage`.
        """
        from genzoo.models.stages import Stage

        model = self.model
        if model.closed_form:

            def fit(batches: Sequence[TableBatch]) -> None:
                self.fit_closed_form([rows(batch) for batch in batches], [rows(batch) for batch in held_out()])

            return Stage(name, (self,), closed_form=fit, monitor=lambda b: -self.log_prob(rows(b)), **options)
        own: dict[str, Any] = {
            "lr": model.lr,
            "optimizer": model.optimizer_choice,
            "schedule": model.schedule,
            "schedule_patience": model.schedule_patience,
            "patience": model.patience,
            "gradient_clip": model.gradient_clip,
        }
        return Stage(
            name,
            (self,),
            loss=lambda batch: self.loss(rows(batch)),
            epochs=epochs,
            monitor=lambda batch: -self.log_prob(rows(batch)),
            **(own | options),
        )


def _places(columns: Sequence[Column], chosen: Sequence[Column]) -> list[int]:
    start, places = 0, {}
    for column in columns:
        places[column.name] = range(start, start + column.width)
        start += column.width
    return [place for column in chosen for place in places[column.name]]
