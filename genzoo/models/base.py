"""The one contract every model keeps: train on a table, score rows in the table's units, sample, impute, save."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from genzoo.errors import CapabilityError, GenZooError
from genzoo.likelihood.noise import RowNoise, seed_of
from genzoo.models.capabilities import Capabilities
from genzoo.models.checkpoint import FORMAT, KEY, read_checkpoint, versions
from genzoo.models.fit_check import require_capable, require_roles, require_weighable
from genzoo.models.lightning_parts import __version__
from genzoo.models.optimisation import Schedule
from genzoo.models.record import RecordsArguments, require_plain
from genzoo.models.scored_rows import arrays_of, chunks, collect
from genzoo.models.scoring import (
    ModelLogProb,
    evaluation_precision,
    float64_difference,
    impossible_cells,
    in_data_space,
    split_unseen,
    sum_over_known,
)
from genzoo.models.training_events import TrainingEvents
from genzoo.tables.batch import TableBatch
from genzoo.tables.schema import Schema

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from genzoo.likelihood.log_likelihood import LogLikelihood
    from genzoo.tables.encode import TableData


class DensityModel(RecordsArguments, TrainingEvents, ABC):
    r"""Base of every model. A method writes :meth:`row_losses`, :meth:`model_log_prob`, :meth:`model_sample` and,
    if it can, :meth:`model_impute`, all in the space of its codec; this class does the rest.

    The number every model reports is :math:`\log p(\text{observed value cells} \mid \text{which are observed,
    context})` in nats, in the table's own units. The pattern of holes is never scored.

    Args:
        schema: The table's schema as a plain dictionary (:meth:`genzoo.Schema.to_dict`), from the datamodule.
        lr: Learning rate; ``None`` takes the model's own default.
        optimizer: ``{"class_path": "torch.optim.AdamW", "init_args": {...}}``; ``None`` is AdamW.
        schedule: Learning rate: ``plateau`` (a third, when val/nll stands still), ``cosine`` or ``constant``.
        warm_up_steps: Optimiser steps over which the learning rate rises from zero (cosine and constant).
        schedule_patience: Validations without progress before the learning rate falls (plateau).
        patience: Validations without progress before training stops; 0 never stops early.
        ema: Decay of the moving average of the weights that is evaluated and saved; 0 switches it off.
        gradient_clip: Largest norm of the gradient; 0 switches clipping off.
        accumulate: Batches whose gradients make one optimiser step.
        draws: Monte-Carlo draws a row in evaluation, for models that are not exact on the table.
        seed: Seed of weights, training noise and evaluation noise.
    """

    capabilities: ClassVar[Capabilities]
    evaluation_gradients: ClassVar[bool] = False
    settings: ClassVar[frozenset[str]] = frozenset({"draws"})
    """Arguments that say how a trained model is used: they may be given anew when it is opened."""
    default_lr: ClassVar[float] = 1e-3

    def __init__(
        self,
        schema: dict[str, Any],
        *,
        lr: float | None = None,
        optimizer: dict[str, Any] | None = None,
        schedule: Schedule = "plateau",
        warm_up_steps: int = 0,
        schedule_patience: int = 5,
        patience: int = 15,
        ema: float = 0.99,
        gradient_clip: float = 5.0,
        accumulate: int = 1,
        draws: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__()
        require_plain(self.init_args, type(self).__name__)
        if draws < 1:
            raise ValueError(f"draws must be at least 1, got {draws}")
        self.automatic_optimization = False
        self.schema = Schema.from_dict(schema)
        self.lr = self.default_lr if lr is None else lr
        self.optimizer_choice = optimizer
        self.schedule: Schedule = schedule
        self.warm_up_steps = warm_up_steps
        self.schedule_patience = schedule_patience
        self.patience = patience
        self.ema = ema
        self.gradient_clip = gradient_clip
        self.accumulate = accumulate
        self.draws = draws
        self.seed = seed
        self.training_record: dict[str, Any] = {}
        self.validation_source: Callable[[], Iterable[TableBatch]] | None = None
        self.test_likelihood: LogLikelihood | None = None
        self._mean_weight = 1.0
        require_roles(type(self).__name__, self.capabilities, self.schema)
        require_weighable(type(self).__name__, self.capabilities, self.schema)
        require_capable(type(self).__name__, self.capabilities, self.view)

    @staticmethod
    @contextmanager
    def construction(arguments: dict[str, Any]) -> Iterator[None]:
        """Weights are a function of the seed alone: the caller's random state is neither used nor changed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(arguments.get("seed", 0), "weights"))
            yield

    # ---- what a method writes -------------------------------------------------------------------------------------

    @property
    def label_column(self) -> str | None:
        """The column that this model sets apart as the class of a row, or ``None``."""
        return None

    @property
    def view(self) -> Schema:
        """The schema as this model scores it: columns that it conditions on by its nature (a sensitive attribute, a
        treatment and its covariates) have role context here. By default the table's own roles.
        """
        return self.schema

    @property
    def likelihood_kind(self) -> str:
        """Kind of this model's likelihood on this schema: exact, lower_bound, upper_bound, estimate, unnormalised."""
        c, columns = self.capabilities, self.view.scored
        kinds = {c.likelihood}
        if any(column.kind == "quantized" for column in columns):
            kinds.add(c.quantized)
        if any(column.is_categorical or column.num_atoms for column in columns):
            kinds.add(c.categorical)
        kinds.discard("exact")
        if not kinds:
            return "exact"
        return kinds.pop() if len(kinds) == 1 else "estimate"

    @property
    def likelihood_method(self) -> str:
        """How the number is computed, in a few words, for reports."""
        return "closed form" if self.likelihood_kind == "exact" else f"importance-weighted, {self.draws} draws"

    @property
    def likelihood_remark(self) -> str:
        """Words for every method: what the numbers depend on beside table and training; empty or ``, ...``."""
        return ""

    @property
    def likelihood_bias(self) -> str | None:
        """Sign of the expected error where the kind is ``estimate``: ``none`` if unbiased; ``None`` is unknown."""
        return None

    def kind_on(self, holes: bool) -> tuple[str, str]:
        """Kind and method on rows with (``holes``) or without missing scored cells: by default the same for both."""
        return self.likelihood_kind, self.likelihood_method

    @property
    def explains_columns(self) -> bool:
        """The likelihood is a sum of contributions of columns."""
        return self.capabilities.by_column

    @property
    def reads_pattern(self) -> bool:
        """The density depends on which cells are missing, not only on the observed ones."""
        return self.capabilities.uses_mask

    @abstractmethod
    def model_log_prob(self, encoded: Any, noise: RowNoise, draws: int) -> ModelLogProb:
        """Log-likelihood of encoded rows in the codec's space, nats; float64."""

    def traced_log_prob(self, encoded: Any) -> Tensor:
        """Hook: the values of :meth:`model_log_prob`, where they are exact, by the same operations for all rows.

        What ``genzoo export --onnx`` traces: no branch on values, sizes from shapes, nothing drawn.
        """
        raise NotImplementedError(f"{type(self).__name__} has no traced likelihood")

    @property
    def graph_obstacle(self) -> str | None:
        """Why an exact likelihood cannot be traced; ``None`` where :meth:`traced_log_prob` gives it."""
        written = type(self).traced_log_prob is not DensityModel.traced_log_prob
        return None if written else "its likelihood takes other steps for other rows"

    @abstractmethod
    def model_sample(self, num_samples: int, context: Tensor | None, generator: torch.Generator) -> TableBatch:
        """Decoded raw rows. ``context`` is ``(num_samples, num_context)`` encoded context features, or ``None``."""

    def model_impute(self, batch: TableBatch, encoded: Any, draws: int, generator: torch.Generator) -> list[TableBatch]:
        """``draws`` completions of raw rows: every hole of a scored column filled, observed cells as they are."""
        raise CapabilityError(
            f"{type(self).__name__} does not impute; use a model that does (genzoo models lists them)"
        )

    def extra_state_for_checkpoint(self) -> dict[str, Any]:
        """Hook: tensors kept beside the module's state (boosters), under keys of their own."""
        return {}

    def restore_extra(self, checkpoint: dict[str, Any]) -> None:
        """Hook: inverse of :meth:`extra_state_for_checkpoint`."""

    # ---- likelihood in data units ---------------------------------------------------------------------------------

    def score_batch(self, batch: TableBatch, seed: int, draws: int) -> ModelLogProb:
        """Log-likelihood of raw rows in the schema's base measure, nats. Gradients only if the model needs them."""
        self.codec.require_fitted()
        if self.evaluation_gradients and torch.is_inference_mode_enabled():
            raise GenZooError(f"{type(self).__name__} needs gradients to evaluate; use --trainer.inference_mode false")
        with torch.set_grad_enabled(self.evaluation_gradients), evaluation_precision():
            unseen = split_unseen(batch, self.view)
            noise = RowNoise(seed, batch.rows)
            if self.capabilities.missing == "no" and bool(unseen.rows.any()):
                # a model that knows no holes: the marginal over the known categories, by enumeration
                encoded, part = sum_over_known(self, unseen, noise, draws)
            else:
                encoded = self.codec.encode(unseen.batch)
                part = self.model_log_prob(encoded, noise, draws)
            values = in_data_space(encoded, part.values, unseen)
            if bool(torch.isnan(values).any()):
                bad = int(torch.isnan(values).sum())
                raise GenZooError(
                    f"{type(self).__name__} gave no number for {bad} of {len(values)} rows; train with a smaller "
                    "learning rate, or report the table as a defect"
                )
            discrete = self._discrete_part(part, values, unseen.terms.sum(1))
            by_column = None
            if part.by_column is not None:
                by_column = part.by_column.double() + encoded.log_volume + unseen.terms
                outside = encoded.outside | unseen.impossible
                by_column[impossible_cells(batch, self.view) & outside[:, None]] = -torch.inf
            return ModelLogProb(values.detach(), part.se, discrete, by_column)

    def _discrete_part(self, part: ModelLogProb, values: Tensor, terms: Tensor) -> Tensor | None:
        scored = self.view.scored
        if all(c.kind == "continuous" and not c.num_atoms for c in scored):
            return torch.zeros_like(values)
        if all(c.kind == "quantized" or c.is_categorical for c in scored):
            return values
        return None if part.discrete is None else part.discrete.double() + terms

    def log_prob(
        self, table: Any, *, seed: int | None = None, draws: int | None = None, batch_size: int = 4096
    ) -> LogLikelihood:
        """Log-likelihood of each row, nats, in the table's own units, labelled with what kind of number it is.

        Args:
            table: A frame (pandas, polars, Arrow), a path, or an encoded table.
            seed: Seed of the evaluation noise; the model's own by default. Draws depend on seed and row number alone.
            draws: Monte-Carlo draws a row, for models that are not exact.
            batch_size: Rows scored at once; changes memory, not the result.

        Raises:
            SchemaError: a column is missing or does not fit the schema.
        """
        data = self._encoded_table(table)
        seed, draws = self.seed if seed is None else seed, self.draws if draws is None else draws
        if draws < 1:
            raise ValueError(f"draws must be at least 1, got {draws}")
        was_training, own_draws, started = self.training, self.draws, time.monotonic()
        self.eval()
        self.draws = draws  # a method that names its draws names these
        try:
            parts = [arrays_of(b, self.score_batch(b.to(self.device), seed, draws)) for b in chunks(data, batch_size)]
            return collect(self, parts, data, seed, draws, seconds=time.monotonic() - started)
        finally:
            self.draws = own_draws
            self.train(was_training)

    def class_posterior(
        self, table: Any, column: str | None = None, *, seed: int | None = None, draws: int | None = None
    ) -> Any:
        """Probability of each known category of a column given the rest of a row, by Bayes' rule.

        From an exact likelihood it is exact; from bounds it is an estimate without a known sign, since the bound of one
        category may be tighter than that of another. A row is scored once for each category, with the same noise, which
        makes their difference surer than either.

        Args:
            table: A frame, a path, or an encoded table; the column is not read and may be absent.
            column: A categorical column that the model scores; by default the label that it sets apart.
            seed: Seed of the noise; the model's own by default.
            draws: Monte-Carlo draws a row, for models that are not exact.

        Returns:
            A pandas frame: a row for each row of the table, with the index of a pandas frame, a column for each
            category. NaN where no category gives the row any likelihood (a number beyond a declared bound).

        Raises:
            CapabilityError: no column is named, or the model does not score it as a category.
        """
        from genzoo.models.posterior import class_posterior

        return class_posterior(self, table, column, seed, draws)

    def label_log_prob(
        self, table: Any, column: str | None = None, *, seed: int | None = None, draws: int | None = None
    ) -> LogLikelihood:
        r"""Log-probability of each row's own category of a column given the rest of the row, nats.

        :math:`\log p(x, y) - \log \sum_{y'} p(x, y')`: ``exact`` where the likelihood of rows is, else ``estimate``.
        (Where a model's likelihood is given the pattern of holes, the sum is not that of a row with a hole.) Rows
        without the category are left out, ``rows`` says which stay; one never seen in training has the probability that
        whole rows keep for it.

        Args:
            table: A frame, a path, or an encoded table.
            column: As in :meth:`class_posterior`.
            seed: Seed of the noise; the model's own by default.
            draws: Monte-Carlo draws a row, for models that are not exact.

        Raises:
            CapabilityError: no column is named, or the model does not score it as a category.
        """
        from genzoo.models.posterior import label_log_prob

        return label_log_prob(self, table, column, seed, draws)

    def log_joint_of_classes(
        self, data: TableData, column: str, seed: int | None = None, draws: int | None = None
    ) -> NDArray[np.float64]:
        """Hook: ``(n, C)`` log-likelihood of each row with each category in the column's place, up to a row's term.

        An evaluation of the table a category; a model that shares work between them overrides it.
        """
        from genzoo.models.posterior import log_joint_of_classes

        return log_joint_of_classes(self, data, column, seed, draws)

    def precision_check(self, data: TableData, num_rows: int = 256) -> float:
        """Mean difference to a float64 evaluation on the first rows, nats a row; should be below 1e-3."""
        was_training = self.training
        self.eval()
        try:
            return float64_difference(
                self, data.select(slice(0, num_rows)).batch().to(self.device), self.seed, self.draws
            )
        finally:
            self.train(was_training)

    @property
    def num_parameters(self) -> int:
        """Numbers fitted on training rows: weights, or the float buffers of a closed-form model."""
        weights = sum(p.numel() for p in self.parameters())
        return weights or sum(b.numel() for b in self.buffers() if b.is_floating_point())

    def _encoded_table(self, table: Any, may_lack: Collection[str] = ()) -> TableData:
        from genzoo.tables.encode import TableData, encode_frame
        from genzoo.tables.frames import read_frame

        if isinstance(table, TableData):
            if table.schema.measure != self.schema.measure:
                raise GenZooError("the rows were encoded with another schema than the model was trained with")
            return table.with_schema(self.schema)
        require = [c.name for c in self.schema.columns if c.is_modelled and c.name not in may_lack]
        return encode_frame(read_frame(table, schema=self.schema), self.schema, require=require)

    # ---- samples and imputations ----------------------------------------------------------------------------------

    def sample(
        self,
        num_samples: int | None = None,
        *,
        given: Any = None,
        seed: int = 0,
        backend: str = "pandas",
        batch_size: int = 4096,
    ) -> Any:
        """Draws rows as a frame in the table's own form.

        Args:
            num_samples: Number of rows; with ``given``, its rows are repeated in turn (default: one draw each).
            given: Rows of context columns, or of any columns where the model imputes: the others are drawn given them.
            seed: Seed of the draws.
            backend: ``pandas``, ``polars`` or ``pyarrow``.
            batch_size: Rows drawn at once.

        Raises:
            CapabilityError: context is needed and not given, or the model cannot condition on the given columns.
        """
        from genzoo.models.drawing import draw_rows

        return draw_rows(self, num_samples, given, seed, backend, batch_size)

    def impute(self, table: Any, *, draws: int = 1, seed: int = 0, batch_size: int = 1024) -> list[Any]:
        """Fills the holes of scored columns; observed cells come back as they were.

        Args:
            table: Frame or path with holes.
            draws: Number of completed frames (multiple imputation).
            seed: Seed of the draws.
            batch_size: Rows filled at once.

        Returns:
            ``draws`` frames of the kind that came in.

        Raises:
            CapabilityError: the model does not impute.
        """
        from genzoo.models.drawing import impute_table

        return impute_table(self, table, draws, seed, batch_size)

    # ---- checkpoints ----------------------------------------------------------------------------------------------

    def checkpoint_record(self) -> dict[str, Any]:
        """What a checkpoint says of the model beside its weights; plain values only."""
        kind = type(self)
        return {
            "format": FORMAT,
            "class_path": f"{kind.__module__}.{kind.__qualname__}",
            "init_args": self.init_args,
            "versions": versions(),
            "training": self.training_record,
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if getattr(self, "_trainer", None) is not None and hasattr(self, "_started"):
            metrics = {k: float(v) for k, v in self.trainer.callback_metrics.items()}
            self.training_record |= {
                "seconds": time.monotonic() - self._started,
                "epochs": self.trainer.current_epoch + 1,
                "steps": self.trainer.global_step,
                "metrics": metrics,
            }
        checkpoint[KEY] = self.checkpoint_record()
        checkpoint.update(self.extra_state_for_checkpoint())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.restore_extra(checkpoint)

    def save(self, path: Any) -> None:
        """Writes a checkpoint that :func:`genzoo.load` opens."""
        from genzoo.tables.frames import atomic_path

        with atomic_path(path, overwrite=True) as temporary:
            torch.save(self.checkpoint_content(), temporary)

    def checkpoint_content(self) -> dict[str, Any]:
        """All that a saved model is: weights, codec, arguments and record; plain values and tensors."""
        return {
            "state_dict": self.state_dict(),
            "pytorch-lightning_version": __version__,
            KEY: self.checkpoint_record(),
            **self.extra_state_for_checkpoint(),
        }

    def warm_start(self, run: Any) -> None:
        """Takes weights and codec of an earlier run with equal arguments; training starts anew from there."""
        content = read_checkpoint(run)
        if Schema.from_dict(content[KEY]["init_args"]["schema"]).measure != self.schema.measure:
            raise GenZooError(f"'{run}' was trained with another schema; a warm start needs the same columns and kinds")
        try:
            self.load_state_dict(content["state_dict"])
        except RuntimeError as error:
            raise GenZooError(f"'{run}' has other layers than this model: {str(error).splitlines()[0]}") from error
        self.restore_extra(content)
