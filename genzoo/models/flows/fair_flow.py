"""Fair normalizing flows: a representation from which no one can tell the group, with a certificate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from genzoo.bijections.elementwise import Elementwise
from genzoo.errors import CapabilityError, GenZooError
from genzoo.likelihood.noise import RowNoise, seed_of
from genzoo.models.capabilities import Capabilities
from genzoo.models.embedding import ColumnChoice, SubModel
from genzoo.models.flows.dense_points import DensePoints
from genzoo.models.flows.fair_completion import complete
from genzoo.models.flows.fair_likelihood import given_group
from genzoo.models.flows.fair_points import FairPoints
from genzoo.models.flows.fair_states import FairStates, States, counted
from genzoo.models.flows.group_rows import GroupCodec, GroupedRows
from genzoo.models.scoring import ModelLogProb, split_unseen
from genzoo.models.stages import Stage, StagedModel
from genzoo.tables.batch import HOLE, TableBatch
from genzoo.tables.schema import Schema

POINTS_IN_VALIDATION = 2048


class FairFlow(StagedModel):
    r"""Encodes each group of people by a bijection of its own, so that the codes of all groups have one distribution.

    The density :math:`p_a` of each group is fitted first and then kept. Encoders :math:`f_a` follow, with a classifier
    h of the outcome, by

    .. math:: \min\; \gamma\, \overline{KL}(p_{Z_a} \| p_{Z_b}) + (1 - \gamma)\, \overline{CE}(h(f_a(x)), y), \qquad
        \log p_{Z_a}(z) = \log p_a(f_a^{-1}(z)) + \log|\det \partial f_a^{-1} / \partial z|.

    Densities of codes are known, so is their statistical distance D, and with it a limit for everybody: no test guesses
    the group with a balanced accuracy above (1 + D) / 2, and no classifier of codes has a demographic-parity gap above
    D (``genzoo.evaluation.fairness.certificate``). The limit holds for draws of the *fitted* densities; how far those
    are from the people is another question, which the fairness section of a report asks of held-out rows.

    Rows are represented as points of R^D, or, where all columns are categories, as states: then encoders are
    permutations of the states, matched by rank of probability (the best there are), at random with probability
    ``gamma``, and else only among states with equal predicted outcome; D is a sum, without error.

    Likelihood: p(columns, outcome | group), where p(outcome | columns, group) is the classifier's; exact for states,
    and for points of complete continuous columns; else a lower bound that ``draws`` tightens. ``joint`` adds
    log P(group). Training encoders does not change the density of the columns, only that of the outcome.

    Args:
        schema: The table's schema as a plain dictionary, with one or more ``sensitive`` columns (all combinations of
            their categories are the groups) and at most one ``outcome`` column, all of them categories.
        gamma: Weight of fairness, from 0 (only utility) to 1 (only fairness).
        criterion: ``parity``: codes do not depend on the group. ``odds``: given the outcome, they do not.
            ``opportunity``: given the favourable outcome, they do not.
        favourable: The outcome of ``opportunity``; ``None`` is the last category.
        representation: ``points``, ``states``, or ``auto``: states where all columns are categories and at most
            ``max_states`` in number.
        density: Catalogue key of the group densities, or ``counts`` (frequencies of states). ``auto``: spline_flow,
            coupling for points and autoregressive for states.
        density_args: Arguments of the group densities.
        density_epochs: Most epochs of the group densities.
        encoder: Family of the encoders' maps: ``affine`` or ``spline``.
        num_blocks: Coupling layers of each encoder.
        hidden: Units of each hidden layer of the encoders.
        classifier_hidden: Units of each hidden layer of the classifier.
        encoder_epochs: Most epochs of encoders and classifier.
        warm_up: Share of these epochs in which the weight of fairness grows from 0 to ``gamma``.
        pool: Draws of each fitted density that training takes its batches from.
        max_states: Most states that are listed.
        smoothing: Added to each count of ``density="counts"``.
        joint: Score the sensitive columns too.
        training: Arguments of :class:`genzoo.models.base.DensityModel`.

    Raises:
        CapabilityError: no sensitive column, a sensitive column of numbers, or a density that does not fit.

    References:
        Balunovic, Ruoss, Vechev (2022), Fair Normalizing Flows, arXiv:2106.05937.
        Differs from the paper: any zoo density; more than two groups and columns of any kind; holes; the classifier's
        loss is averaged within groups and uses all rows; the best validated state is kept; identity starts.

    Example:
        >>> import genzoo
        >>> roles = {"sensitive": ["sex"], "outcome": ["income"]}
        >>> model = genzoo.fit("genzoo:adult", model="fair_flow", data=roles, gamma=0.5)  # doctest: +SKIP
        >>> model.encode("genzoo:adult")  # doctest: +SKIP
    """

    capabilities: ClassVar[Capabilities] = Capabilities(
        missing="lower_bound",
        context=True,
        quantized="lower_bound",
        categorical="lower_bound",
        imputes=True,
        stages=("density", "encoder"),
        roles=("sensitive",),
    )
    default_lr: ClassVar[float] = 1e-2
    codec: GroupCodec

    def __init__(
        self,
        schema: dict[str, Any],
        gamma: float = 0.5,
        criterion: Literal["parity", "odds", "opportunity"] = "parity",
        favourable: str | None = None,
        representation: Literal["auto", "points", "states"] = "auto",
        density: str = "auto",
        density_args: dict[str, Any] | None = None,
        density_epochs: int = 200,
        encoder: Literal["affine", "spline"] = "affine",
        num_blocks: int = 4,
        hidden: int = 50,
        classifier_hidden: int = 100,
        encoder_epochs: int = 60,
        warm_up: float = 0.5,
        pool: int = 20_000,
        max_states: int = 1_000_000,
        smoothing: float = 0.1,
        joint: bool = False,
        **training: Any,
    ) -> None:
        self.joint = joint
        super().__init__(schema, **training)
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma must lie between 0 and 1, got {gamma}")
        if criterion not in ("parity", "odds", "opportunity"):
            raise ValueError(f"criterion must be parity, odds or opportunity, got '{criterion}'")
        if representation not in ("auto", "points", "states"):
            raise ValueError(f"representation must be auto, points or states, got '{representation}'")
        if not 0 <= warm_up < 1:
            raise ValueError(f"warm_up is a share of the epochs, from 0 to below 1; got {warm_up}")
        extra = next((c.name for c in self.schema.context), None)
        if extra is not None:
            raise CapabilityError(f"FairFlow conditions on the group alone; make '{extra}' a value, or ignore it")
        self.gamma, self.criterion, self.warm_up, self.pool, self.smoothing = gamma, criterion, warm_up, pool, smoothing
        self.density_epochs, self.encoder_epochs = density_epochs, encoder_epochs
        self.codec = GroupCodec(self.schema, len(self.view.scored), open_groups=joint)
        self.features = _features(self.schema)
        self.choose = ColumnChoice(self.schema, self.features)
        num_labels = self.codec.num_labels if criterion != "parity" else 1
        if criterion != "parity" and self.codec.outcome is None:
            raise CapabilityError(
                f"criterion '{criterion}' needs an outcome column; name one with --data.outcome, or use parity"
            )
        self.labels = self._constrained_labels(favourable, num_labels)
        finite = all(c.is_categorical for c in self.features.scored)
        if representation == "auto":
            representation = "states" if finite and States.count(self.features) <= max_states else "points"
        num_classes = self.codec.num_labels if self.codec.outcome else 0
        num_cells = self.codec.num_groups * num_labels
        self.num_cell_labels = num_labels
        names = [f"density {cell}" for cell in range(num_cells)]
        key = "spline_flow" if density == "auto" else density
        arguments = density_args
        self.fair: FairPoints | FairStates
        self.tables = nn.ModuleList()
        if representation == "points":
            if key == "counts":
                raise CapabilityError("density 'counts' counts states; use it with --model.representation states")
            if arguments is None and key == "spline_flow":
                arguments = {"transform": "coupling", "hidden": 64}
            parts = [
                DensePoints(SubModel(key, self.schema, self.features, arguments, self.seed, name)) for name in names
            ]
            element = Elementwise(encoder, 8)
            self.fair = FairPoints(
                parts, self.codec.num_groups, num_labels, num_classes, element, num_blocks, hidden,
                classifier_hidden, self.seed,
            )  # fmt: skip
        else:
            states = States(self.features, max_states)
            self.fair = FairStates(states, self.codec.num_groups, num_labels, num_classes, gamma, classifier_hidden)
            if key != "counts":
                if arguments is None and key == "spline_flow":
                    arguments = {"hidden": 64}
                self.tables.extend(
                    SubModel(key, self.schema, self.features, arguments, self.seed, name) for name in names
                )

    def _constrained_labels(self, favourable: str | None, num_labels: int) -> list[int]:
        """Labels for which the codes of all groups are to be alike."""
        if self.criterion != "opportunity":
            return list(range(num_labels))
        names = self.codec.label_names()
        if favourable is None:
            return [len(names) - 1]
        if favourable not in names:
            raise ValueError(f"favourable must be a category of the outcome ({', '.join(names)}), got '{favourable}'")
        return [names.index(favourable)]

    @property
    def view(self) -> Schema:
        """Sensitive columns are conditioned on, unless ``joint``."""
        if self.joint:
            return self.schema
        return self.schema.with_roles("context", [c.name for c in self.schema.columns if c.role == "sensitive"])

    @property
    def points(self) -> FairPoints:
        """The representation by points.

        Raises:
            CapabilityError: it is by states.
        """
        if not isinstance(self.fair, FairPoints):
            raise CapabilityError("this FairFlow represents rows as states, not as points")
        return self.fair

    @property
    def is_exact(self) -> bool:
        """Codes are states, whose distances are sums."""
        return isinstance(self.fair, FairStates)

    def codable(self, batch: TableBatch) -> TableBatch:
        """The rows that have a code: all of them for points, those without holes for states."""
        if isinstance(self.fair, FairPoints):
            return batch
        known = split_unseen(batch, self.view).batch
        return batch.select((self.choose(known).codes >= 0).all(1).nonzero().flatten())

    @property
    def likelihood_kind(self) -> str:
        if isinstance(self.fair, FairStates):
            return "exact"
        density = self.fair.density(0)
        return "exact" if density.rows is None or density.rows.always_exact else "lower_bound"

    @property
    def likelihood_method(self) -> str:
        if isinstance(self.fair, FairStates):
            return "table of all states"
        exact = self.likelihood_kind == "exact"
        return "change of variables by group" if exact else f"importance-weighted, {self.draws} draws"

    def kind_on(self, holes: bool) -> tuple[str, str]:
        """Points marginalise holes by Monte Carlo."""
        if holes and isinstance(self.fair, FairPoints):
            return "lower_bound", f"importance-weighted, {self.draws} draws"
        return super().kind_on(holes)

    # ---- training ---------------------------------------------------------------------------------------------------

    def submodels(self) -> list[SubModel]:
        if isinstance(self.fair, FairPoints):
            return [self.fair.density(cell).density for cell in range(len(self.fair.densities))]
        return [part for part in self.tables if isinstance(part, SubModel)]

    def cell_of(self, group: Tensor, label: Tensor) -> Tensor:
        """``(batch,)`` density that a row belongs to; -1 for a row whose label is needed and not known."""
        if self.num_cell_labels == 1:
            return group
        return torch.where((label < 0) | (group < 0), -1, group * self.num_cell_labels + label)

    def rows_by_cell(self, batch: TableBatch) -> list[TableBatch]:
        """The rows of each cell; rows of an unknown one are left out."""
        cell = self.cell_of(self.codec.groups_of(batch, known=not self.joint), self.codec.labels_of(batch))
        return [
            batch.select((cell == c).nonzero().flatten()) for c in range(self.codec.num_groups * self.num_cell_labels)
        ]

    def stages(self) -> Sequence[Stage]:
        return [self._density_stage(), self._encoder_stage()]

    def _density_stage(self) -> Stage:
        models = self.submodels()
        if not models:
            return Stage("density", (self.fair,), closed_form=self._count_states, monitor=self._table_nll)
        first = models[0].model
        if first.closed_form:
            return Stage("density", tuple(models), closed_form=self._fit_closed_forms, monitor=self._density_nll)
        return Stage(
            "density",
            tuple(models),
            loss=self._density_loss,
            monitor=self._density_nll,
            epochs=self.density_epochs,
            lr=first.lr,
            optimizer=first.optimizer_choice,
            schedule=first.schedule,
            schedule_patience=first.schedule_patience,
            patience=first.patience,
            gradient_clip=first.gradient_clip,
        )

    def _density_loss(self, batch: TableBatch) -> Tensor:
        parts = self.rows_by_cell(batch)
        losses = [
            model.loss(rows) * (len(rows) / len(batch)) for model, rows in zip(self.submodels(), parts, strict=True)
        ]
        return torch.stack(losses).sum()

    def _density_nll(self, batch: TableBatch) -> Tensor:
        parts = zip(self.submodels(), self.rows_by_cell(batch), strict=True)
        return torch.cat([-model.log_prob(rows) for model, rows in parts if len(rows)])

    def _fit_closed_forms(self, batches: Sequence[TableBatch]) -> None:
        held_out = self.trainer.datamodule.data("val")  # type: ignore[attr-defined]
        held = (
            self.rows_by_cell(split_unseen(held_out.batch().to(self.device), self.view).batch)
            if len(held_out)
            else None
        )
        for cell, model in enumerate(self.submodels()):
            rows = [self.rows_by_cell(batch)[cell] for batch in batches]
            model.fit_closed_form(rows, [held[cell]] if held is not None and len(held[cell]) else ())

    def _count_states(self, batches: Sequence[TableBatch]) -> None:
        assert isinstance(self.fair, FairStates)
        batch = self._with_group(TableBatch.concatenate(list(batches)))
        cell = self.cell_of(self.codec.groups_of(batch), self.codec.labels_of(batch))
        codes = self.choose(batch).codes
        here = (codes >= 0).all(1) & (cell >= 0)
        states = self.fair.states
        num_cells = self.codec.num_groups * self.num_cell_labels
        self.fair.set_table(
            counted(states.index(codes[here]), cell[here], num_cells, states.num_states, self.smoothing)
        )

    def _table_nll(self, batch: TableBatch) -> Tensor:
        assert isinstance(self.fair, FairStates)
        batch = self._with_group(batch)
        cell = self.cell_of(self.codec.groups_of(batch), self.codec.labels_of(batch))
        return -self.fair.log_prob(self.choose(batch).codes[cell >= 0], cell[cell >= 0]).clamp(min=-100)

    def _encoder_stage(self) -> Stage:
        warm = int(self.warm_up * self.encoder_epochs)
        if isinstance(self.fair, FairStates):
            if self.fair.classifier is None:
                return Stage("encoder", (self.fair,), closed_form=lambda batches: self._match_states())
            return Stage(
                "encoder",
                (self.fair,),
                loss=self._state_loss,
                epochs=self.encoder_epochs,
                begin=self._match_states,
                lr=self.lr / 10,
            )
        parts = tuple(p for p in (self.fair.encoders, self.fair.classifier) if p is not None)
        return Stage(
            "encoder",
            parts,
            loss=self._point_loss,
            monitor=self._point_objective,
            epochs=self.encoder_epochs,
            warm_up=warm,
            begin=self.fair.forget_pool,
        )

    def _weight_of_fairness(self) -> float:
        """gamma, after a linear warm-up over the first epochs of the stage."""
        if self.fair.classifier is None:
            return 1.0
        epochs = next(s.epochs for s in self.plan if s.name == "encoder")
        share = (self.progress.epoch + 1) / max(1.0, self.warm_up * epochs)
        return self.gamma * min(1.0, max(0.0, 2 * share - 1))

    def _objective(self, batch: TableBatch, gamma: float, size: int, leader: int | None = None) -> Tensor:
        fair = self.points
        fair.fill_pool(self.pool)
        # KL for the constrained labels; classification on rows of the table
        loss = gamma * fair.divergence(size, self.labels) if gamma else torch.zeros((), device=self.device)
        if fair.classifier is None or gamma == 1:
            return loss
        y, group, label = self.points_of(self._with_group(batch))
        return loss + (1 - gamma) * fair.classification(y, group, label, leader)

    @torch.no_grad()
    def points_of(self, batch: TableBatch, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Points of rows, with group and label. Without ``noise`` it is drawn."""
        fair = self.points
        group, label = self.codec.groups_of(batch), self.codec.labels_of(batch)
        y = torch.zeros(len(batch), fair.num_features, dtype=torch.float64, device=batch.numeric.device)
        if noise is None:
            noise = torch.randn(len(batch), fair.density(0).noise_width, device=batch.numeric.device)
        # a row without a label is drawn by the first label's density: its filler alone depends on it
        cell = self.cell_of(group, label.clamp(min=0))
        for c in torch.unique(cell).tolist():
            here = (cell == c).nonzero().flatten()
            part = fair.density(c)
            y[here] = part.point(part.cells(batch.select(here)), noise[here])[0].double()
        return y, group, label

    def _with_group(self, batch: TableBatch) -> TableBatch:
        """The rows that say their group: all of them, unless the model is joint."""
        if not self.joint:
            return batch
        return batch.select((self.codec.groups_of(batch, known=False) >= 0).nonzero().flatten())

    def _point_loss(self, batch: TableBatch) -> Tensor:
        weight = self._weight_of_fairness()
        leader = int(self.codec.counts.argmax()) if weight < self.gamma else None
        return self._objective(batch, weight, max(64, len(batch) // self.codec.num_groups), leader)

    def _point_objective(self, batch: TableBatch) -> Tensor:
        gamma = 1.0 if self.points.classifier is None else self.gamma
        return self._objective(batch, gamma, POINTS_IN_VALIDATION)

    def _match_states(self) -> None:
        """Probabilities of all states from the fitted densities, then the maps."""
        fair = self.fair
        assert isinstance(fair, FairStates)
        if self.tables:
            every = torch.arange(fair.states.num_states, device=self.device)
            self.eval()
            table = [
                torch.cat(
                    [
                        part.model.score_batch(fair.states.batch(chunk), self.seed, part.model.draws).values
                        for chunk in every.split(16_384)
                    ]
                )
                for part in self.submodels()
            ]
            fair.set_table(torch.softmax(torch.stack(table), 1))
        predicted = None
        if fair.classifier is not None:
            batch = split_unseen(self.trainer.datamodule.fit_sample().to(self.device), self.view).batch  # type: ignore[attr-defined]
            batch = self._with_group(batch)
            codes, label = self.choose(batch).codes, self.codec.labels_of(batch)
            here = (codes >= 0).all(1) & (label >= 0)
            predicted = fair.predict_states(
                fair.states.index(codes[here]), self.codec.groups_of(batch)[here], label[here], self.codec.num_labels
            )
        fair.match(fair.group_table(shares=self.codec.log_label().exp()), predicted)

    def _state_loss(self, batch: TableBatch) -> Tensor:
        fair = self.fair
        assert isinstance(fair, FairStates)
        batch = self._with_group(batch)
        codes, group, label = self.choose(batch).codes, self.codec.groups_of(batch), self.codec.labels_of(batch)
        here = (codes >= 0).all(1)
        index, group, label = fair.states.index(codes[here]), group[here], label[here]
        uniform = torch.rand(len(index), device=index.device)
        return fair.classification(fair.encode(index, group, uniform), group, label)

    # ---- likelihood -------------------------------------------------------------------------------------------------

    def model_log_prob(self, encoded: GroupedRows, noise: RowNoise, draws: int) -> ModelLogProb:
        known = encoded.group >= 0
        if bool(known.all()):
            values, se = given_group(self, encoded, noise, draws)
            return ModelLogProb(values + self.codec.log_group()[encoded.group] if self.joint else values, se)
        # a missing group is summed over; its columns are drawn with the same noise in every group
        possible = self.codec.possible_groups(encoded.batch)
        scores, errors = [], []
        for group in range(self.codec.num_groups):
            values, se = given_group(self, replace(encoded, group=torch.full_like(encoded.group, group)), noise, draws)
            scores.append((values + self.codec.log_group()[group]).masked_fill(~possible[:, group], -torch.inf))
            errors.append(torch.zeros_like(values) if se is None else se)
        stacked = torch.stack(scores, 1)
        total = torch.logsumexp(stacked, 1)
        share = (stacked - total[:, None]).exp().nan_to_num(0.0)
        error = (share * torch.stack(errors, 1)).sum(1)
        return ModelLogProb(total, error if bool(error.any()) or self.likelihood_kind != "exact" else None)

    # ---- samples and imputations ------------------------------------------------------------------------------------

    def model_sample(self, num_samples: int, context: Tensor | None, generator: torch.Generator) -> TableBatch:
        group = torch.multinomial(
            self.codec.log_group().exp().cpu(), num_samples, replacement=True, generator=generator
        ).to(self.device)
        blank = TableBatch(
            torch.full((num_samples, sum(c.width for c in self.schema.numeric)), torch.nan, dtype=torch.float64),
            torch.full((num_samples, sum(c.width for c in self.schema.categorical)), HOLE, dtype=torch.int64),
            torch.arange(num_samples),
        ).to(self.device)
        return complete(self, self.codec.with_groups(blank, group), generator)

    def model_impute(
        self, batch: TableBatch, encoded: GroupedRows, draws: int, generator: torch.Generator
    ) -> list[TableBatch]:
        return [complete(self, batch, generator) for _ in range(draws)]

    # ---- codes ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def codes_of(self, batch: TableBatch, seed: int = 0) -> Tensor:
        """Codes of raw rows: ``(batch, num_features)`` float64 points, or ``(batch,)`` int64 states.

        What is drawn (which map encodes a row, where a category lies in R^D) depends on the seed and the row number.

        Raises:
            GenZooError: rows of states with holes.
        """
        self.require_trained()
        batch = split_unseen(batch, self.view).batch
        noise = RowNoise(seed, batch.rows)
        if isinstance(self.fair, FairPoints):
            normal = noise.normal(self.fair.density(0).noise_width, stream="encode", device=batch.numeric.device)
            y, group, _ = self.points_of(batch, normal)
            return self.fair.encode(y, group)
        codes = self.choose(batch).codes
        if bool((codes < 0).any()):
            bad = int((codes < 0).any(1).sum())
            raise GenZooError(
                f"{bad} of {len(codes)} rows have missing or new categories and are no state; impute them first, "
                "or declare missing: value in the schema"
            )
        uniform = noise.uniform(stream="encode", device=codes.device)
        return self.fair.encode(self.fair.states.index(codes), self.codec.groups_of(batch), uniform)

    @torch.no_grad()
    def rows_of(self, codes: Tensor, group: Tensor, rows: Tensor, seed: int = 0) -> TableBatch:
        """Rows of the represented columns that codes stand for, given the group (and, for states, seed and number)."""
        self.require_trained()
        if isinstance(self.fair, FairPoints):
            return self.fair.density(0).decode(self.fair.decode(codes.double(), group), rows)
        uniform = RowNoise(seed, rows).uniform(stream="encode", device=codes.device)
        return replace(self.fair.states.batch(self.fair.decode(codes, group, uniform)), rows=rows)

    def encode(self, table: Any, *, seed: int = 0, keep: Sequence[str] = (), backend: str = "pandas") -> Any:
        """The fair representation of a table, as a frame.

        Args:
            table: Frame or path with the columns of the training table (the outcome may be missing).
            seed: Seed of what is drawn; the same one leads back.
            keep: Columns to carry along as they are, such as the outcome. With the sensitive column the frame is no
                fair representation any more; it is needed to go back.
            backend: ``pandas``, ``polars`` or ``pyarrow``.

        Returns:
            Columns ``z1, z2, ...``, or, for states, the columns of the table with the codes' categories.
        """
        from genzoo.models.flows.fair_frames import encode_table

        return encode_table(self, table, seed, keep, backend)

    def decode(self, table: Any, *, seed: int = 0, backend: str = "pandas") -> Any:
        """The rows that a frame of codes stands for: the inverse of :meth:`encode`.

        Args:
            table: Frame or path of codes with the sensitive columns.
            seed: The seed it was encoded with.
            backend: ``pandas``, ``polars`` or ``pyarrow``.
        """
        from genzoo.models.flows.fair_frames import decode_table

        return decode_table(self, table, seed, backend)

    def draw_codes(self, num_samples: int, group: int, seed: int, label: int = 0) -> Tensor:
        """Codes of fresh draws of a group's fitted density (given a label, for ``odds`` and ``opportunity``)."""
        self.require_trained()
        generator = torch.Generator().manual_seed(seed_of(seed, "codes", group, label))
        with torch.no_grad():
            if isinstance(self.fair, FairPoints):
                return self.fair.sample(num_samples, group, generator, label)
            table = self.code_table(label)[group].cpu()
            return torch.multinomial(table, num_samples, replacement=True, generator=generator)

    def code_log_prob(self, codes: Tensor, label: int = 0) -> Tensor:
        """``(n, num_groups)`` log-density or log-probability of codes in every group."""
        with torch.no_grad():
            if isinstance(self.fair, FairPoints):
                return self.fair.log_prob(codes, label)
            return self.code_table(label)[:, codes].log().T

    def code_table(self, label: int = 0) -> Tensor:
        """``(num_groups, states)`` exact probabilities of codes."""
        assert isinstance(self.fair, FairStates)
        shares = self.codec.log_label().exp()
        return self.fair.code_table(label if self.num_cell_labels > 1 else None, shares)

    def code_features(self, codes: Tensor) -> Tensor:
        """``(n, features)`` float64: what a classifier of codes reads."""
        if isinstance(self.fair, FairPoints):
            return codes.double()
        return self.fair.states.one_hot(codes).double()


def _features(schema: Schema) -> Schema:
    """The columns that are represented: scored, and neither sensitive nor the outcome."""
    columns = [replace(c, role="value") for c in schema.scored if c.role not in ("sensitive", "outcome")]
    if not columns:
        raise CapabilityError("FairFlow has no column to represent: every column is sensitive, outcome or ignored")
    return replace(schema, columns=tuple(columns))
