"""What a report is made from: one result per model, and what else was measured about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from genzoo.evaluation.sections import Section
from genzoo.likelihood.discretised import SPIKE_LIMIT, DiscretisedResult
from genzoo.likelihood.kinds import is_rankable
from genzoo.likelihood.log_likelihood import LogLikelihood

__all__ = ["SPIKE_LIMIT", "DiscretisedResult", "ModelResult"]


@dataclass(frozen=True)
class ModelResult:
    """One model in a comparison.

    Args:
        name: Name in the report.
        likelihood: Its log-likelihood on the test rows, or ``None`` if it failed.
        error: One sentence saying why it failed, or ``None``.
        discretised: Likelihood at data resolution, for tables with continuous columns.
        curves: ``train/nll``, ``val/nll``, ... each a list of (step, value in nats per row).
        samples: Frame of sampled rows, or ``None``.
        num_parameters: Free numbers of the model.
        train_seconds: Wall-clock training time.
        sample_rows_per_second: Speed of sampling.
        settings: What made the numbers: seed, draws, steps, device, hyper-parameters that differ from defaults.
        sections: What else was evaluated: tails, fidelity, privacy, ...
        is_oracle: The true density of a toy: shown, never ranked.
    """

    name: str
    likelihood: LogLikelihood | None = None
    error: str | None = None
    discretised: DiscretisedResult | None = None
    curves: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    samples: Any = None
    num_parameters: int | None = None
    train_seconds: float | None = None
    sample_rows_per_second: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    sections: Sequence[Section] = ()
    is_oracle: bool = False

    @property
    def withdrawn(self) -> str | None:
        """Why this result may not be ranked, or ``None`` if it may."""
        likelihood = self.likelihood
        if self.is_oracle:
            return "the true density, not a model"
        if likelihood is None:
            return self.error or "no likelihood"
        if not is_rankable(likelihood.kind, likelihood.bias):
            return {
                "upper_bound": "an upper bound: the true value may be lower",
                "unnormalised": "not normalised: known only up to a constant",
            }.get(likelihood.kind, "an estimate of unknown bias")
        if self.discretised is not None and self.discretised.withdraws_rank:
            return (
                f"spike index {self.discretised.spike_index:.2f} above {SPIKE_LIMIT}: "
                "the density lives on repeated values; compare the discretised likelihood"
            )
        return None
