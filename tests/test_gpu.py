"""What only a GPU shows: training, scoring and drawing there give the numbers of the CPU. Run: ``pytest -m gpu``."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import genzoo
from contract import ROLES, SMALL, TRAINER, mixed_table
from genzoo.models.catalogue import CATALOGUE

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("key", sorted(CATALOGUE))
def test_a_model_trained_on_the_gpu_scores_alike_on_both_devices(key: str) -> None:
    frame = mixed_table()
    model = genzoo.fit(
        frame, model=key, trainer=TRAINER | {"accelerator": "gpu"}, data=ROLES.get(key, {}).get("mixed"), **SMALL[key]
    )
    on_cpu = model.log_prob(frame)
    on_gpu = model.to("cuda").log_prob(frame)
    # the noise is the same by construction; what is left is the rounding of float32 matrix products
    np.testing.assert_allclose(on_gpu.values, on_cpu.values, rtol=0, atol=1e-3)


@pytest.mark.parametrize("key", sorted(CATALOGUE))
def test_a_model_on_the_gpu_samples_and_imputes(key: str) -> None:
    frame = mixed_table()
    model = genzoo.fit(frame, model=key, trainer=TRAINER, data=ROLES.get(key, {}).get("mixed"), **SMALL[key]).to("cuda")
    assert len(model.sample(100, seed=0)) == 100
    if model.capabilities.imputes:
        assert not model.impute(frame.head(20))[0].isna().any().any()


@pytest.mark.parametrize("key", sorted(CATALOGUE))
def test_mixed_precision_training_reports_full_precision_likelihoods(key: str) -> None:
    frame = mixed_table()
    options = TRAINER | {"accelerator": "gpu", "precision": "bf16-mixed"}
    model = genzoo.fit(frame, model=key, trainer=options, data=ROLES.get(key, {}).get("mixed"), **SMALL[key])
    assert np.isfinite(model.log_prob(frame).values).all()
    assert abs(model.precision_check(model._encoded_table(frame))) < 1e-3
