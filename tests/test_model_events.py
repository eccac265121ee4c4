"""The order of events of training, where Lightning is easy to misuse: one test a line of the design."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

import genzoo
from contract import continuous_table
from genzoo.codecs.vector import VectorCodec
from genzoo.datamodules.table import Table
from genzoo.errors import CapabilityError, CheckpointError, GenZooError
from genzoo.likelihood.noise import RowNoise
from genzoo.models.averaging import WeightAverage
from genzoo.models.base import DensityModel
from genzoo.models.capabilities import Capabilities
from genzoo.models.scoring import ModelLogProb
from genzoo.models.training import make_trainer, train
from genzoo.tables.batch import TableBatch


class ShiftedNormal(DensityModel):
    """Independent normals with learned means and dropout noise in training: small, random, and trained by gradient."""

    capabilities = Capabilities(kinds=("continuous",), missing="exact")

    def __init__(self, schema: dict[str, Any], width: int = 3, **training: Any) -> None:
        super().__init__(schema, **training)
        self.width = width
        self.codec: VectorCodec = VectorCodec(self.schema)
        self.mean = nn.Parameter(torch.full((len(self.codec.numbers),), 2.0))
        self.dropout = nn.Dropout(0.5)

    def _log_prob(self, cells: Any, mean: Tensor) -> Tensor:
        each = -0.5 * (cells.number - mean) ** 2 - 0.5 * np.log(2 * np.pi)
        return (each * cells.present).sum(1)

    def loss(self, encoded: Any) -> Tensor:
        return -self._log_prob(encoded, self.dropout(self.mean)).mean()

    def model_log_prob(self, encoded: Any, noise: RowNoise, draws: int) -> ModelLogProb:
        return ModelLogProb(self._log_prob(encoded, self.mean).double())

    def model_sample(self, num_samples: int, context: Tensor | None, generator: torch.Generator) -> TableBatch:
        z = torch.randn(num_samples, len(self.mean), generator=generator, dtype=torch.float64) + self.mean
        return self.codec.decode(z, torch.zeros(num_samples, 0, dtype=torch.int64), torch.arange(num_samples))


def datamodule(seed: int = 0) -> Table:
    module = Table(frame=continuous_table(300), seed=seed, batch_size=64)
    module.setup("fit")
    return module


def trainer(folder: Path, **options: Any) -> pl.Trainer:
    return make_trainer(folder, progress=False, **options)


def make(**arguments: Any) -> ShiftedNormal:
    return ShiftedNormal(schema=datamodule().schema_dict, **arguments)


def test_codec_is_fitted_before_the_averaged_copy_is_made(tmp_path: Path) -> None:
    seen = {}

    class Look(Callback):
        def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            average = next(c for c in trainer.callbacks if isinstance(c, WeightAverage))
            seen["fitted"] = bool(average._average_model.module.codec.fitted)

    trainer(tmp_path, max_epochs=1, callbacks=[Look()]).fit(make(), datamodule=datamodule())
    assert seen["fitted"] is True


def test_codec_is_fitted_once_and_kept_by_resume_and_warm_start(tmp_path: Path) -> None:
    model = make()
    trainer(tmp_path, max_epochs=1).fit(model, datamodule=datamodule())
    before = {k: v.clone() for k, v in model.codec.state_dict().items()}
    other = datamodule(seed=9)  # other training rows: a refit would change the scales
    resumed = make()
    trainer(tmp_path / "b", max_epochs=2).fit(
        resumed, datamodule=other, ckpt_path=str(tmp_path / "checkpoints/last.ckpt"), weights_only=True
    )
    warm = make()
    warm.warm_start(tmp_path)
    trainer(tmp_path / "c", max_epochs=1).fit(warm, datamodule=other)
    for found in (resumed, warm):
        for key, value in found.codec.state_dict().items():
            assert torch.equal(value, before[key]), key


def test_unfitted_codec_is_an_error_in_test_and_scoring(tmp_path: Path) -> None:
    model = make()
    with pytest.raises(GenZooError, match="has not seen training rows"):
        model.log_prob(continuous_table(10))
    with pytest.raises(GenZooError, match="has not seen training rows"):
        trainer(tmp_path).test(model, datamodule=datamodule(), verbose=False)


def test_codec_buffers_stay_float64_and_true_precisions_are_refused(tmp_path: Path) -> None:
    model = make()
    trainer(tmp_path, max_epochs=1).fit(model, datamodule=datamodule())
    assert all(b.dtype == torch.float64 for b in model.codec.buffers() if b.is_floating_point())
    with pytest.raises(GenZooError, match="bf16-mixed"):
        trainer(tmp_path / "b", max_epochs=1, precision="bf16-true").fit(make(), datamodule=datamodule())


def test_scaled_gradients_are_not_clipped_by_the_wrong_size() -> None:
    model = make()
    model._trainer = SimpleNamespace(precision="16-mixed")
    with pytest.raises(GenZooError, match="bf16-mixed"):
        model.setup("fit")


def test_a_model_that_needs_gradients_to_evaluate_refuses_inference_mode() -> None:
    model = make()
    model.fit_codec(datamodule())
    type(model).evaluation_gradients = True
    try:
        with torch.inference_mode(), pytest.raises(GenZooError, match="inference_mode"):
            model.score_batch(datamodule().data("val").batch(), 0, 1)
    finally:
        type(model).evaluation_gradients = False


def test_resuming_from_last_epoch_ends_bit_equal_to_the_uninterrupted_run(tmp_path: Path) -> None:
    whole = make(seed=3)
    trainer(tmp_path / "whole", max_epochs=4).fit(whole, datamodule=datamodule())
    first = make(seed=3)
    trainer(tmp_path / "cut", max_epochs=2).fit(first, datamodule=datamodule())
    torch.manual_seed(12345)  # the global state must not matter
    second = make(seed=3)
    trainer(tmp_path / "rest", max_epochs=4).fit(
        second, datamodule=datamodule(), ckpt_path=str(tmp_path / "cut/checkpoints/last.ckpt"), weights_only=True
    )
    for (name, a), b in zip(whole.state_dict().items(), second.state_dict().values()):
        assert torch.equal(a, b), name


def test_training_leaves_the_global_random_state_alone(tmp_path: Path) -> None:
    model = make()
    model.fit_codec(datamodule())
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    trainer(tmp_path, max_epochs=1).fit(model, datamodule=datamodule())
    assert torch.equal(torch.rand(3), expected)


def test_an_interruption_keeps_the_best_weights_so_far(tmp_path: Path) -> None:
    class Interrupt(Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.current_epoch == 2:
                raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="training was interrupted"):
        model = train(make(), datamodule(), tmp_path, progress=False, max_epochs=50, callbacks=[Interrupt()])
    assert (tmp_path / "checkpoints" / "best.ckpt").is_file()
    again = genzoo.load(tmp_path)
    frame = continuous_table(20)
    np.testing.assert_array_equal(model.log_prob(frame).values, again.log_prob(frame).values)


def test_a_resumed_run_has_its_time_again(tmp_path: Path) -> None:
    spent = trainer(tmp_path / "a", max_epochs=2, max_time={"hours": 1})
    spent.fit(make(), datamodule=datamodule())
    last = tmp_path / "a" / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    (name,) = (key for key in content["callbacks"] if key.startswith("TimeBudget"))
    for stage in content["callbacks"][name]["time_elapsed"]:
        content["callbacks"][name]["time_elapsed"][stage] = 7200.0
    torch.save(content, last)
    again = trainer(tmp_path / "b", max_epochs=4, max_time={"hours": 1})
    again.fit(make(), datamodule=datamodule(), ckpt_path=last, weights_only=True)
    assert again.current_epoch == 4


def test_a_process_told_to_end_ends_and_keeps_its_folder(tmp_path: Path) -> None:
    class Terminate(Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.current_epoch == 2:
                signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as ended:
        train(make(), datamodule(), tmp_path, progress=False, max_epochs=50, callbacks=[Terminate()])
    assert ended.value.code == 143
    assert np.isfinite(genzoo.load(tmp_path).log_prob(continuous_table(20)).values).all()


def test_the_best_checkpoint_holds_the_averaged_weights(tmp_path: Path) -> None:
    model = make(ema=0.9)
    run = trainer(tmp_path, max_epochs=3)
    run.fit(model, datamodule=datamodule())
    best = run.checkpoint_callback.best_model_score
    assert -genzoo.load(tmp_path).log_prob(datamodule().data("val")).mean() == pytest.approx(float(best), abs=1e-9)


def test_a_checkpoint_holds_no_rows_and_opens_with_weights_only(tmp_path: Path) -> None:
    trainer(tmp_path, max_epochs=1).fit(make(), datamodule=datamodule())
    content = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    value = continuous_table(300)["c0"].iloc[0]

    def walk(item: Any) -> None:
        if isinstance(item, dict):
            for part in item.values():
                walk(part)
        elif isinstance(item, list | tuple):
            for part in item:
                walk(part)
        elif isinstance(item, float):
            assert item != value
        elif isinstance(item, Tensor) and item.is_floating_point() and item.numel():
            assert not (item.double() == value).any()

    walk(content)


@pytest.mark.parametrize("damage", ["truncated", "foreign", "empty", "unknown class"])
def test_a_damaged_or_foreign_checkpoint_is_one_clear_sentence(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "model.ckpt"
    model = make()
    model.fit_codec(datamodule())
    model.save(path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:500])
    elif damage == "foreign":
        torch.save({"state_dict": {}}, path)
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        content = torch.load(path, weights_only=True)
        content["genzoo"]["class_path"] = "some.unknown.Model"
        torch.save(content, path)
    with pytest.raises(CheckpointError) as error:
        genzoo.load(path)
    assert "\n" not in str(error.value)


def test_weight_tensors_do_not_depend_on_the_callers_random_state() -> None:
    torch.manual_seed(1)
    model = make(seed=1)
    model.fit_codec(datamodule())
    torch.manual_seed(2)
    other = make(seed=1)
    other.fit_codec(datamodule())
    for a, b in zip(model.state_dict().values(), other.state_dict().values()):
        assert torch.equal(a, b)


def test_a_model_says_before_training_what_it_cannot_take() -> None:
    frame = continuous_table(100).assign(kind=list("ab") * 50)
    module = Table(frame=frame, seed=0)
    module.setup("fit")
    with pytest.raises(CapabilityError, match="column 'kind'"):
        ShiftedNormal(schema=module.schema_dict)


def test_gradients_accumulate_to_the_step_of_one_large_batch(tmp_path: Path) -> None:
    options: dict[str, Any] = {"ema": 0.0, "patience": 0, "gradient_clip": 0.0, "optimizer": {"class_path": "SGD"}}
    found = []
    for batch_size, accumulate in ((64, 1), (32, 2)):
        module = Table(frame=continuous_table(80), seed=0, batch_size=batch_size, val=0.1, test=0.1)
        module.setup("fit")
        model = ShiftedNormal(schema=module.schema_dict, accumulate=accumulate, **options)
        model.dropout.p = 0.0
        trainer(tmp_path / str(batch_size), max_epochs=1).fit(model, datamodule=module)
        found.append(model.mean.detach().clone())
    assert torch.allclose(found[0], found[1], atol=1e-6)


def test_outside_models_join_by_class_path(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    from genzoo.models import catalogue

    point = EntryPoint(name="shifted", value=f"{__name__}:ShiftedNormal", group="genzoo.models")
    monkeypatch.setattr(catalogue, "entry_points", lambda group: [point])
    assert catalogue.model_class("shifted") is ShiftedNormal
    assert "shifted" in catalogue.model_names()
    with pytest.raises(GenZooError, match="did you mean 'shifted'"):
        catalogue.find("shiftd")


def test_last_checkpoint_is_the_newest_epoch_even_when_the_best_is_older(tmp_path: Path) -> None:
    model = make(lr=0.5, ema=0.0, optimizer={"class_path": "SGD", "init_args": {"lr": 3.0}})  # too large: gets worse
    run = trainer(tmp_path, max_epochs=6)
    run.fit(model, datamodule=datamodule())
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["epoch"] == 5
    assert best["epoch"] < 5


def test_a_closed_form_model_is_saved_after_its_one_pass(tmp_path: Path) -> None:
    from genzoo.models.baselines.gaussian import Gaussian

    model = Gaussian(schema=datamodule().schema_dict)
    run = trainer(tmp_path)
    run.fit(model, datamodule=datamodule())
    assert run.current_epoch == 1
    assert run.global_step == 1
    frame = continuous_table(20)
    np.testing.assert_array_equal(genzoo.load(tmp_path).log_prob(frame).values, model.log_prob(frame).values)


def test_the_learning_rate_rises_over_the_warm_up_and_then_follows_its_schedule() -> None:
    from genzoo.models.optimisation import make_schedule

    def rates(schedule: str, warm_up: int) -> list[float]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = make_schedule(optimizer, schedule, 5, 20, warm_up)  # type: ignore[arg-type]
        seen = []
        for _ in range(20):
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return seen

    assert rates("constant", 4) == pytest.approx([0.25, 0.5, 0.75, 1.0] + [1.0] * 16)
    cosine = rates("cosine", 4)
    assert cosine[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert cosine[12] == pytest.approx(0.5)
    assert cosine[-1] < 0.02
    with pytest.raises(ValueError, match="use it with schedule cosine or constant"):
        rates("plateau", 4)


def test_the_progress_bar_names_a_last_epoch_only_where_it_was_asked_for() -> None:
    from types import SimpleNamespace

    from genzoo.models.training import MAX_EPOCHS, EpochBar

    bar = EpochBar()
    for most, words in ((3, "Epoch 1 of 3"), (MAX_EPOCHS, "Epoch 1"), (-1, "Epoch 1"), (None, "Epoch 1")):
        bar._trainer = SimpleNamespace(max_epochs=most)
        assert bar._get_train_description(0).rstrip() == words
