"""Shared fixtures: one thread, and the folder of real tables when it stands beside the repository."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import hypothesis
import pytest
import torch

torch.set_num_threads(1)

# the default suite draws the same random tables on every machine; `make test-slow` draws new ones
hypothesis.settings.register_profile("same", deadline=None, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None)
hypothesis.settings.load_profile("same")

SHARED_DATA = Path(__file__).parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real tables; the test is skipped without it."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder of real tables is not beside the repository")
    return SHARED_DATA
