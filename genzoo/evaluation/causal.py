"""Potential outcomes against the truth, where a simulation or an experiment knows it; and how far the arms overlap.

References:
    Melnychuk, Frauen, Feuerriegel (2023), arXiv:2209.06203 (log-likelihood of potential outcomes).
    Kish (1965), Survey sampling (effective number of rows).
    Crump, Hotz, Imbens, Mitnik (2009), Dealing with limited overlap, Biometrika 96 (small propensities).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from genzoo.evaluation.sections import Section, Subject
    from genzoo.models.flows.interventional_flow import InterventionalFlow

Array = NDArray[np.float64]
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
DRAWS = 10_000


@dataclass(frozen=True)
class PotentialScore:
    """One arm against the truth.

    Args:
        arm: The treatment.
        num_rows: Rows whose outcome under it is known.
        log_prob: Mean of ``log p(Y[arm])`` over them, nats, in the outcome's unit.
        se: Its standard error over rows.
        oracle: Mean log-density of the truth on the same rows, or ``None``.
        gap: Oracle minus model, paired row by row, or ``None``.
        gap_se: Its standard error.
        wasserstein: Distance of the outcomes and draws of the model, in the outcome's unit.
        mean_error: Absolute difference of the mean of the outcomes and of the density.
        quantile_error: Mean absolute difference of quantiles (levels 0.1, 0.25, 0.5, 0.75, 0.9).
    """

    arm: str
    num_rows: int
    log_prob: float
    se: float
    oracle: float | None
    gap: float | None
    gap_se: float | None
    wasserstein: float
    mean_error: float
    quantile_error: float


def score_arm(
    model: InterventionalFlow, arm: str, outcomes: Array, oracle: Array | None = None, seed: int = 0
) -> PotentialScore:
    """Scores one arm.

    Args:
        model: A trained interventional flow.
        arm: The treatment.
        outcomes: ``(n,)`` outcomes under that treatment of all rows, also of those that did not receive it; NaN where
            unknown.
        oracle: ``(n,)`` true log-densities of these outcomes.
        seed: Seed of the draws.

    Raises:
        ValueError: no outcome is known.
    """
    import torch
    from scipy.stats import wasserstein_distance

    from genzoo.models.flows.interventional_effects import density_mean

    known = np.isfinite(outcomes)
    if not known.any():
        raise ValueError(f"no outcome under treatment '{arm}' is known")
    values = outcomes[known]
    log_prob = model.potential_log_prob(values, arm)
    index = model.arm_index(arm)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        draws = model.potential_sample(torch.full((DRAWS,), index), generator).cpu().numpy()
    gap = None if oracle is None else oracle[known] - log_prob
    at_levels = np.abs(np.quantile(values, QUANTILES) - np.quantile(draws, QUANTILES))
    return PotentialScore(
        arm=arm,
        num_rows=len(values),
        log_prob=float(log_prob.mean()),
        se=_se(log_prob),
        oracle=None if oracle is None else float(oracle[known].mean()),
        gap=None if gap is None else float(gap.mean()),
        gap_se=None if gap is None else _se(gap),
        wasserstein=float(wasserstein_distance(values, draws)),
        mean_error=abs(float(values.mean()) - density_mean(model, index)),
        quantile_error=float(at_levels.mean()),
    )


def score_potential_outcomes(
    model: InterventionalFlow, datamodule: Any, split: str = "test", seed: int = 0
) -> list[PotentialScore]:
    """Scores every arm whose outcomes a :class:`genzoo.datamodules.Causal` knows for all rows of a split."""
    outcomes = datamodule.potential_outcomes(split)
    return [
        score_arm(model, arm, outcomes[arm], datamodule.potential_oracle(split, arm), seed)
        for arm in model.arms
        if arm in outcomes and np.isfinite(outcomes[arm]).any()
    ]


def contrast_error(model: InterventionalFlow, outcomes: dict[str, Array], first: str, second: str) -> float:
    """Absolute error of ``E Y[second] - E Y[first]`` (one-step estimate) against the known outcomes of the rows."""
    means = model.measure.functionals[:, 0].cpu().numpy()
    estimate = means[model.arm_index(second)] - means[model.arm_index(first)]
    return abs(float(estimate) - float(np.nanmean(outcomes[second]) - np.nanmean(outcomes[first])))


def causal_section(subject: Subject) -> Section | None:
    """Effects with intervals, overlap, and scores against counterfactual outcomes where they are known."""
    from genzoo.evaluation.sections import Section
    from genzoo.models.flows.interventional_flow import InterventionalFlow

    model = subject.model
    if not isinstance(model, InterventionalFlow):
        return None
    found = model.effects()
    metrics, lines = [], []
    for arm in found.arms:
        if arm.contrast is not None:
            metrics.append(_contrast_metric(arm.name, found.reference, arm.contrast, model.outcome.unit or ""))
        lines.append(
            (
                arm.name,
                str(arm.rows),
                f"{arm.effective_rows:.0f}",
                f"{arm.beyond_support:.1%}",
                f"{arm.clipped:.1%}",
                f"{arm.shrinkage:.2f}",
                f"{arm.negative_mass:.3f}",
                f"{arm.mean.value:.4g} [{arm.mean.low:.4g}, {arm.mean.high:.4g}]",
                f"{arm.density_mean:.4g}",
            )
        )
    grids = [_overlap_grid(lines)]
    truth = getattr(subject.datamodule, "potential_outcomes", None)
    if truth is not None and len(subject.datamodule.data("test")) == len(subject.test):
        scores = score_potential_outcomes(model, subject.datamodule, seed=subject.seed)
        if scores:
            grids.append(_truth_grid(scores))
    return Section(
        key="causal",
        metrics=tuple(metrics),
        grids=tuple(grids),
        curves=(_density_curves(model), *_propensity_curves(model)),
        note="p(Y[a]) holds if all confounders are among the covariates and every row could have received every "
        "treatment. Intervals come from influence functions and know nothing of confounders that were not measured.",
    )


def _contrast_metric(name: str, reference: str, contrast: Any, unit: str) -> Any:
    from genzoo.evaluation.sections import Metric

    return Metric(
        f"effect of {name} against {reference}",
        contrast.value,
        f"E Y[{name}] - E Y[{reference}] by the one-step (A-IPTW) estimator; Robins, Rotnitzky and Zhao (1994).",
        low=contrast.low,
        high=contrast.high,
        unit=unit,
    )


def _overlap_grid(lines: Sequence[tuple[str, ...]]) -> Any:
    from genzoo.evaluation.sections import Grid

    return Grid(
        "Treatments, their overlap and mean outcomes",
        (
            "treatment",
            "rows",
            "effective rows",
            "beyond support",
            "clipped",
            "correction used",
            "negative mass",
            "E Y[a]",
            "mean of density",
        ),
        tuple(lines),
        "Effective rows: (sum w)^2 / sum w^2 of the weights. Beyond support: rows less likely to receive the treatment "
        "than any row that did; there its outcome is extrapolated. Clipped: propensity below the model's clip.",
    )


def _truth_grid(scores: Sequence[PotentialScore]) -> Any:
    from genzoo.evaluation.sections import Grid

    return Grid(
        "Against known potential outcomes of the held-out rows",
        ("treatment", "rows", "log p(Y[a])", "below the truth", "Wasserstein", "error of mean", "error of quantiles"),
        tuple(
            (
                s.arm,
                str(s.num_rows),
                f"{s.log_prob:.3f} ± {s.se:.3f}",
                "" if s.gap is None else f"{s.gap:.3f} ± {s.gap_se:.3f}",
                f"{s.wasserstein:.3g}",
                f"{s.mean_error:.3g}",
                f"{s.quantile_error:.3g}",
            )
            for s in scores
        ),
        "Nats per row in the outcome's unit; below the truth: mean of true minus fitted log-density. No model saw "
        "these columns.",
    )


def _density_curves(model: InterventionalFlow) -> Any:
    from genzoo.evaluation.sections import Curves
    from genzoo.models.flows.interventional_effects import density_curve

    series = {}
    for a, name in enumerate(model.arms):
        x, density = density_curve(model, a, 160)
        series[f"under {name}"] = list(zip(x.tolist(), density.tolist(), strict=True))
    return Curves(
        "Density of the outcome under each treatment",
        _labelled(model.outcome.name, model.outcome.unit),
        "density",
        series,
        summary="Fitted densities of the potential outcomes.",
    )


def _propensity_curves(model: InterventionalFlow) -> list[Any]:
    """Per treatment the shares of its receivers, and of others, by their propensity for it."""
    from genzoo.evaluation.sections import Curves

    counts = model.measure.propensities.cpu().numpy()
    bars = counts.shape[2]
    x = ((np.arange(bars) + 0.5) / bars).tolist()
    figures = []
    for a, name in enumerate(model.arms[1:] if len(model.arms) == 2 else model.arms):
        a = a + 1 if len(model.arms) == 2 else a
        series = {}
        for received, other in enumerate(model.arms):
            share = counts[received, a] / max(counts[received, a].sum(), 1)
            series[f"received {other}"] = list(zip(x, share.tolist(), strict=True))
        figures.append(
            Curves(
                f"Propensity for {name}",
                f"probability of treatment {name} given the covariates",
                "share of rows",
                series,
                summary=f"Histogram of propensities for {name}, by treatment received; overlap is where both are.",
            )
        )
    return figures


def _labelled(name: str, unit: str | None) -> str:
    return f"{name} ({unit})" if unit else name


def _se(values: Array) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
