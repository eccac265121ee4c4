"""Models trained in stages: one fit, several losses, each with its own weights, patience and best state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

import genzoo
from contract import continuous_table, mixed_table
from genzoo.codecs.vector import VectorCodec
from genzoo.datamodules.table import Table
from genzoo.errors import GenZooError
from genzoo.likelihood.noise import RowNoise
from genzoo.models.averaging import WeightAverage
from genzoo.models.capabilities import Capabilities
from genzoo.models.embedding import ColumnChoice, SubModel
from genzoo.models.scoring import ModelLogProb
from genzoo.models.stages import KEY, Progress, Stage, StagedModel, share_epochs
from genzoo.models.training import make_trainer, train
from genzoo.tables.batch import TableBatch
from genzoo.tables.schema import Schema


class Staged(StagedModel):
    """Normals in three stages: a mean by gradient, a scale in closed form, and the density of another model."""

    capabilities = Capabilities(kinds=("continuous",), missing="exact", stages=("mean", "scale", "flow"))

    def __init__(
        self, schema: dict[str, Any], epochs: list[int] | None = None, mean_patience: int = 0, **training: Any
    ) -> None:
        super().__init__(schema, **training)
        self.codec: VectorCodec = VectorCodec(self.schema)
        self.epochs = epochs or [3, 1, 3]
        self.mean_patience = mean_patience
        size = len(self.codec.numbers)
        self.mean = nn.ParameterList([torch.full((size,), 2.0)])
        self.dropout = nn.Dropout(0.3)
        self.scale = nn.BatchNorm1d(size, affine=False)  # any module with a buffer
        self.flow = SubModel("maf", self.schema, self.schema, {"num_transforms": 1, "hidden": 16}, self.seed, "flow")

    def stages(self) -> Sequence[Stage]:
        return [
            Stage("mean", (self.mean, self.dropout), self._mean_loss, epochs=self.epochs[0], lr=0.05,
                  patience=self.mean_patience),
            Stage("scale", (self.scale,), closed_form=self._fit_scale),
            self.flow.stage("flow", self.epochs[2]),
        ]  # fmt: skip

    def _mean_loss(self, batch: TableBatch) -> Tensor:
        return ((self.codec.encode(batch).number - self.dropout(self.mean[0])) ** 2).mean()

    def _fit_scale(self, batches: Sequence[TableBatch]) -> None:
        number = torch.cat([self.codec.encode(batch).number for batch in batches])
        self.scale.running_var.copy_(((number - self.mean[0]) ** 2).mean(0))

    def model_log_prob(self, encoded: Any, noise: RowNoise, draws: int) -> ModelLogProb:
        normal = torch.distributions.Normal(self.mean[0].double(), self.scale.running_var.double().sqrt())
        return ModelLogProb(normal.log_prob(encoded.number).sum(1))

    def model_sample(self, num_samples: int, context: Tensor | None, generator: torch.Generator) -> TableBatch:
        z = torch.randn(num_samples, len(self.mean[0]), generator=generator, dtype=torch.float64) + self.mean[0]
        return self.codec.decode(z, torch.zeros(num_samples, 0, dtype=torch.int64), torch.arange(num_samples))


def datamodule(**options: Any) -> Table:
    module = Table(frame=continuous_table(300), seed=0, batch_size=64, **options)
    module.setup("fit")
    return module


def make(**arguments: Any) -> Staged:
    return Staged(schema=datamodule().schema_dict, **arguments)


def fit(folder: Path, model: Staged, ckpt: Path | None = None, **options: Any) -> Any:
    trainer = make_trainer(folder, progress=False, **({"max_epochs": 50} | options))
    resume: dict[str, Any] = {} if ckpt is None else {"ckpt_path": str(ckpt), "weights_only": True}
    trainer.fit(model, datamodule=datamodule(), **resume)
    return trainer


class Watch(Callback):
    """Notes stage, weights and modes at the start of each epoch, and what validation logged."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.weights: list[dict[str, Tensor]] = []
        self.modes: list[tuple[bool, bool]] = []
        self.metrics: list[set[str]] = []

    def on_train_batch_start(self, trainer: Any, model: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.names.append(model.stage.name)
            self.weights.append({k: v.clone() for k, v in model.state_dict().items()})
            self.modes.append((model.dropout.training, model.flow.training))

    def on_train_epoch_end(self, trainer: Any, model: Any) -> None:
        self.metrics.append({k for k in trainer.logged_metrics if k.startswith("val/")})


def test_stages_follow_each_other_in_one_fit_and_each_moves_its_own_weights(tmp_path: Path) -> None:
    watch = Watch()
    model = make()
    trainer = fit(tmp_path, model, callbacks=[watch])
    assert watch.names == ["mean"] * 3 + ["scale"] + ["flow"] * 3
    assert trainer.current_epoch == 7

    def moved(before: int, after: int, part: str) -> bool:
        pairs = [(watch.weights[before][k], v) for k, v in watch.weights[after].items() if k.startswith(part)]
        return any(not torch.equal(a, b) for a, b in pairs)

    assert [moved(0, 3, p) for p in ("mean.", "scale.", "flow.")] == [True, False, False]
    assert [moved(3, 4, p) for p in ("mean.", "scale.", "flow.")] == [False, True, False]
    assert [moved(4, 6, p) for p in ("mean.", "scale.", "flow.")] == [False, False, True]
    assert watch.modes == [(True, False)] * 3 + [(False, False)] + [(False, True)] * 3
    assert all(p.requires_grad for p in model.parameters()), "the fit leaves weights as trainable as they were"
    record = model.training_record["stages"]
    assert [(r["name"], r["epochs"]) for r in record] == [("mean", 3), ("scale", 1), ("flow", 3)]


def test_closed_form_stage_sees_every_training_row_and_the_earlier_stages_result(tmp_path: Path) -> None:
    model = make(ema=0.0)
    fit(tmp_path, model)
    batch = datamodule().data("train").batch()
    number = model.codec.encode(batch).number
    expected = ((number - model.mean[0].detach()) ** 2).mean(0)
    torch.testing.assert_close(model.scale.running_var.double(), expected, rtol=1e-6, atol=0)


def test_val_nll_is_logged_once_and_is_the_likelihood_of_the_kept_weights(tmp_path: Path) -> None:
    model = make()
    trainer = fit(tmp_path, model)
    rows = pd.read_csv(tmp_path / "metrics.csv")
    assert rows["val/nll"].notna().sum() == 1
    assert rows["val/mean"].notna().sum() == 3
    assert rows["val/flow"].notna().sum() == 3
    best = float(trainer.checkpoint_callback.best_model_score)
    kept = genzoo.load(tmp_path)
    assert -kept.log_prob(datamodule().data("val")).mean() == pytest.approx(best, abs=1e-9)
    for (name, a), b in zip(model.state_dict().items(), kept.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_best_state_of_a_stage_takes_the_place_of_its_last(tmp_path: Path, ema: float) -> None:
    class Wrong(Staged):
        def _mean_loss(self, batch: TableBatch) -> Tensor:  # worse with every step, from a good start
            return -((self.codec.encode(batch).number - self.dropout(self.mean[0])) ** 2).mean()

        def stages(self) -> Sequence[Stage]:
            first, *rest = super().stages()
            good = lambda batch: super(Wrong, self)._mean_loss(batch)  # noqa: E731
            return [Stage("mean", first.modules, self._mean_loss, epochs=4, lr=0.1, monitor=good), *rest]

    watch = Watch()
    model = Wrong(schema=datamodule().schema_dict, ema=ema)
    fit(tmp_path, model, callbacks=[watch])
    values = pd.read_csv(tmp_path / "metrics.csv")["val/mean"].dropna()
    assert values.is_monotonic_increasing
    best = model.training_record["stages"][0]["best"]
    assert best == pytest.approx(values.iloc[0], rel=1e-5)
    batch = datamodule().data("val").batch()
    model.eval()
    kept = float(((model.codec.encode(batch).number - model.mean[0].detach()) ** 2).mean())
    assert kept == pytest.approx(best, rel=1e-5)
    if not ema:
        torch.testing.assert_close(model.mean[0].detach(), watch.weights[1]["mean.0"], rtol=0, atol=0)


def test_patience_ends_a_stage_and_not_the_fit(tmp_path: Path) -> None:
    class Still(Staged):
        def _mean_loss(self, batch: TableBatch) -> Tensor:
            return 0.0 * self.mean[0].sum()

    model = Still(schema=datamodule().schema_dict, epochs=[40, 1, 2], mean_patience=2)
    trainer = fit(tmp_path, model)
    assert [r["epochs"] for r in model.training_record["stages"]] == [3, 1, 2]
    assert trainer.current_epoch == 6


def test_the_average_starts_anew_with_each_stage(tmp_path: Path) -> None:
    seen = []

    class Look(Callback):
        def on_train_batch_start(self, trainer: Any, model: Any, batch: Any, batch_idx: int) -> None:
            average = next(c for c in trainer.callbacks if isinstance(c, WeightAverage))._average_model
            if batch_idx == 0:
                same = all(
                    torch.equal(a, b)
                    for a, b in zip(average.module.state_dict().values(), model.state_dict().values(), strict=True)
                )
                seen.append((model.stage.name, model.progress.epoch, int(average.n_averaged), same))

    fit(tmp_path, make(), callbacks=[Look()])
    assert all(count == 0 and same for _, epoch, count, same in seen if epoch == 0)
    assert any(count > 0 and not same for _, epoch, count, same in seen if epoch > 0)


@pytest.mark.parametrize("cut", [1, 3, 4, 5])
def test_a_killed_run_resumes_bit_equal_in_any_stage(tmp_path: Path, cut: int) -> None:
    class Kill(Callback):
        def on_train_batch_start(self, trainer: Any, model: Any, batch: Any, batch_idx: int) -> None:
            if trainer.current_epoch == cut:
                raise KeyboardInterrupt

    whole = make(seed=3)
    fit(tmp_path / "whole", whole)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(tmp_path / "cut", make(seed=3), callbacks=[Kill()])
    checkpoint = tmp_path / "cut/checkpoints/last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    assert (content[KEY]["index"], content[KEY]["epoch"]) == {1: (0, 1), 3: (1, 0), 4: (2, 0), 5: (2, 1)}[cut]
    assert bool(content[KEY]["state"]) == (content[KEY]["epoch"] > 0)
    torch.manual_seed(99)  # the global state must not matter
    rest = make(seed=3)
    fit(tmp_path / "rest", rest, ckpt=checkpoint)
    for (name, a), b in zip(whole.state_dict().items(), rest.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert rest.training_record["stages"] == whole.training_record["stages"]


def test_a_run_interrupted_in_its_last_stage_is_kept_at_its_best_and_earlier_ones_say_so(tmp_path: Path) -> None:
    class Kill(Callback):
        def __init__(self, epoch: int) -> None:
            self.epoch = epoch

        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.current_epoch == self.epoch:
                raise KeyboardInterrupt

    options: dict[str, Any] = {"progress": False, "max_epochs": 50}
    model = train(make(epochs=[3, 1, 9]), datamodule(), tmp_path / "a", callbacks=[Kill(6)], **options)
    state = torch.load(tmp_path / "a/checkpoints/last.ckpt", weights_only=True)[KEY]["state"]
    assert state
    for name, value in state.items():
        assert torch.equal(model.state_dict()[name], value), name
    assert np.isfinite(model.log_prob(continuous_table(20)).values).all()
    early = train(make(), datamodule(), tmp_path / "b", callbacks=[Kill(2)], **options)
    with pytest.raises(GenZooError, match=r"interrupted in stage 1 of 3 \('mean'\); resume it"):
        early.log_prob(continuous_table(20))
    with pytest.raises(GenZooError, match="interrupted in stage 1"):
        genzoo.load(tmp_path / "b/checkpoints/last.ckpt").sample(3)


def test_a_finished_model_can_be_resumed_refitted_and_warm_started(tmp_path: Path) -> None:
    model = make()
    fit(tmp_path / "a", model)
    again = make()
    trainer = fit(tmp_path / "b", again, ckpt=tmp_path / "a/checkpoints/last.ckpt")
    assert trainer.current_epoch == 7, "nothing is left to do"
    assert torch.equal(again.mean[0], model.mean[0])
    warm = make()
    warm.warm_start(tmp_path / "a")
    start = warm.mean[0].detach().clone()
    watch = Watch()
    fit(tmp_path / "c", warm, callbacks=[watch])
    assert watch.names == ["mean"] * 3 + ["scale"] + ["flow"] * 3
    assert torch.equal(watch.weights[0]["mean.0"], start)
    watch = Watch()
    fit(tmp_path / "d", model, callbacks=[watch])
    assert len(watch.names) == 7


def test_too_few_epochs_are_shared_in_proportion_and_one_a_stage_is_the_least(tmp_path: Path) -> None:
    assert share_epochs([100, 1, 50], -1) == [100, 1, 50]
    assert share_epochs([100, 1, 50], 151) == [100, 1, 50]
    assert share_epochs([100, 1, 50], 16) == [10, 1, 5]
    assert share_epochs([5, 5], 3) == [2, 1]
    model = make(epochs=[20, 1, 40])
    fit(tmp_path, model, max_epochs=5)
    assert [r["epochs"] for r in model.training_record["stages"]] == [2, 1, 2]
    with pytest.raises(GenZooError, match=r"3 stages.*max_epochs is 2.*in full: 7"):
        fit(tmp_path / "b", make(), max_epochs=2)


@pytest.mark.parametrize(("wanted", "limit"), [([7, 3, 90], 20), ([1, 1, 1], 3), ([500, 2], 7), ([9, 9, 9, 9], 11)])
def test_shared_epochs_use_the_limit_and_leave_no_stage_out(wanted: list[int], limit: int) -> None:
    found = share_epochs(wanted, limit)
    assert sum(found) == min(limit, sum(wanted))
    assert all(1 <= a <= b for a, b in zip(found, wanted, strict=True))


def test_without_validation_rows_stages_run_their_epochs_and_the_last_state_stays(tmp_path: Path) -> None:
    module = datamodule(val=0)
    model = Staged(schema=module.schema_dict, mean_patience=1)
    train(model, module, tmp_path, progress=False, max_epochs=50)
    assert [r["epochs"] for r in model.training_record["stages"]] == [3, 1, 3]
    assert [r["best"] for r in model.training_record["stages"]] == [None] * 3
    assert np.isfinite(model.log_prob(continuous_table(20)).values).all()


def test_a_stage_needs_one_of_loss_and_closed_form() -> None:
    with pytest.raises(TypeError, match="either a loss or a closed form"):
        Stage("x", ())
    with pytest.raises(ValueError, match="at least one epoch"):
        Stage("x", (), loss=lambda batch: torch.zeros(()), epochs=0)


def test_progress_is_plain_and_warm_up_epochs_are_no_candidates(tmp_path: Path) -> None:
    class Warm(Staged):
        def stages(self) -> Sequence[Stage]:
            first, *rest = super().stages()
            return [Stage("mean", first.modules, first.loss, epochs=4, lr=0.05, warm_up=3), *rest]

    model = Warm(schema=datamodule().schema_dict)
    fit(tmp_path, model)
    values = pd.read_csv(tmp_path / "metrics.csv")["val/mean"].dropna()
    assert model.training_record["stages"][0]["best"] == pytest.approx(values.iloc[-1], rel=1e-6)
    assert set(Progress.__dataclass_fields__) == set(torch.load(tmp_path / "checkpoints/last.ckpt")[KEY])


# ---- embedded models ------------------------------------------------------------------------------------------------


def test_columns_are_chosen_by_name_and_put_back_in_their_places() -> None:
    module = Table(frame=mixed_table(50), seed=0)
    module.setup("fit")
    schema = module.schema
    part = Schema((schema["flag"], schema["amount"], schema["group"]), num_training_rows=schema.num_training_rows)
    batch = module.data("train").batch()
    choose = ColumnChoice(schema, part)
    chosen = choose(batch)
    names = [c.name for c in schema.numeric], [c.name for c in schema.categorical]
    assert torch.equal(chosen.numeric[:, 0], batch.numeric[:, names[0].index("amount")])
    assert torch.equal(chosen.codes[:, 0], batch.codes[:, names[1].index("flag")])
    blank = batch.with_values(torch.zeros_like(batch.numeric), torch.zeros_like(batch.codes))
    back = choose.put(chosen, blank)
    assert torch.equal(choose(back).codes, chosen.codes)
    assert not back.numeric[:, names[0].index("x")].any()


@pytest.mark.parametrize("key", ["maf", "mixture"])
def test_an_embedded_model_trains_and_scores_as_it_does_alone(tmp_path: Path, key: str) -> None:
    arguments = {"maf": {"hidden": 16, "num_transforms": 1}, "mixture": {"num_components": 2}}[key]

    class Around(Staged):
        def __init__(self, schema: dict[str, Any], **training: Any) -> None:
            super().__init__(schema, **training)
            self.flow = SubModel(key, self.schema, self.schema, arguments | {"seed": 4}, self.seed, "flow")

        def stages(self) -> Sequence[Stage]:
            return [self.flow.stage("flow", 3, held_out=lambda: [self.trainer.datamodule.data("val").batch()])]

        def model_log_prob(self, encoded: Any, noise: RowNoise, draws: int) -> ModelLogProb:
            return self.flow.model.model_log_prob(encoded, noise, draws)

    # equal seeds of training noise and equal steps: the same weights come out
    outer = train(
        Around(schema=datamodule().schema_dict, seed=4, ema=0.0), datamodule(), tmp_path / "a", progress=False
    )
    alone = genzoo.models.catalogue.model_class(key)(schema=datamodule().schema_dict, seed=4, **arguments)
    alone.ema, alone.patience = 0.0, 0
    alone = train(alone, datamodule(), tmp_path / "b", progress=False, max_epochs=3)
    frame = continuous_table(30, seed=5)
    np.testing.assert_allclose(outer.log_prob(frame).values, alone.log_prob(frame).values, atol=1e-6)


def test_a_staged_model_is_not_embedded() -> None:
    from genzoo.models import catalogue

    point = type("Point", (), {"value": f"{__name__}:Staged"})()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "outside_models", lambda: {"staged": point})
        with pytest.raises(GenZooError, match="trained in stages and cannot be part"):
            SubModel("staged", datamodule().schema, datamodule().schema, None, 0, "x")
