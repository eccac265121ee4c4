r"""What a fair representation guarantees, and what adversaries and classifiers make of it.

A **certificate** is the statistical distance D of the codes of two groups, under the *fitted* densities of the groups:
no test guesses the group from a code with a balanced accuracy above :math:`(1 + D)/2`, and no classifier of codes has a
demographic-parity gap above D. It holds for draws of the fitted densities. For people, with :math:`\epsilon_a` the
statistical distance between group a and its fitted density, :math:`D(\text{people}) \le D + \epsilon_0 + \epsilon_1`.
The :math:`\epsilon` are not known; held-out rows give a lower limit (:func:`estimation_gap`), and adversaries that are
trained and judged on held-out rows say what can be reached in practice (:func:`attack`).

References:
    Balunovic, Ruoss, Vechev (2022), Fair Normalizing Flows, arXiv:2106.05937; Lopez-Paz and Oquab (2017), Revisiting
    classifier two-sample tests, arXiv:1610.06545 (the estimation gap).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from genzoo.errors import GenZooError
from genzoo.evaluation.sections import Grid, Metric, Section, Subject
from genzoo.likelihood.noise import seed_of
from genzoo.likelihood.total_variation import (
    OptimalAccuracy,
    StatisticalDistance,
    exact_distance,
    optimal_accuracy,
    statistical_distance,
)

if TYPE_CHECKING:
    from genzoo.models.flows.fair_flow import FairFlow
    from genzoo.tables.encode import TableData

Array = NDArray[np.float64]
Adversary = Literal["logistic", "mlp", "trees"]
ADVERSARIES: tuple[Adversary, ...] = ("logistic", "mlp", "trees")


@dataclass(frozen=True)
class Certificate:
    """Statistical distances of the codes of every two groups, under the fitted densities.

    Args:
        pairs: ``(group, group, label)`` in words to distance; the label is empty without a condition on the outcome.
        accuracy: Balanced accuracy of the best test of all groups, for each label.
        criterion: ``parity``: over all people. ``odds`` and ``opportunity``: given the outcome.
    """

    pairs: Mapping[tuple[str, str, str], StatisticalDistance]
    accuracy: Mapping[str, OptimalAccuracy]
    criterion: str

    @property
    def worst(self) -> StatisticalDistance:
        """The largest distance: also the limit of every classifier's parity gap (equalized-odds gap)."""
        return max(self.pairs.values(), key=lambda distance: distance.upper)


def certificate(model: FairFlow, num_samples: int = 100_000, delta: float = 0.05, seed: int = 0) -> Certificate:
    """The certificate of a trained fair representation.

    Args:
        model: A trained :class:`~genzoo.models.flows.fair_flow.FairFlow`.
        num_samples: Fresh draws of each fitted density; not used where codes are states, whose distance is a sum.
        delta: Probability with which some upper limit may fail; it is divided among them.
        seed: Seed of the draws.
    """
    names, labels = model.codec.group_names(), model.labels
    said = model.codec.label_names() if model.num_cell_labels > 1 else [""]
    couples = list(combinations(range(len(names)), 2))
    # a limit of every pair and one of all groups together, which for two groups is that of the pair
    each = delta / ((len(couples) + (len(names) > 2)) * len(labels))
    pairs: dict[tuple[str, str, str], StatisticalDistance] = {}
    accuracy = {}
    for label in labels:
        if model.is_exact:
            table = model.code_table(label).cpu().numpy()
            best = float(table.max(0).sum() / len(names))
            accuracy[said[label]] = OptimalAccuracy(best, best, 0.0)
            for a, b in couples:
                pairs[names[a], names[b], said[label]] = exact_distance(table[a], table[b])
            continue
        logs = [draw_log_densities(model, group, num_samples, seed, label) for group in range(len(names))]
        accuracy[said[label]] = optimal_accuracy(logs, each)
        for a, b in couples:
            first, second = (logs[a][:, a], logs[a][:, b]), (logs[b][:, a], logs[b][:, b])
            pairs[names[a], names[b], said[label]] = statistical_distance(first, second, each)
    return Certificate(pairs, accuracy, model.criterion)


def draw_log_densities(model: FairFlow, group: int, num_samples: int, seed: int, label: int = 0) -> Array:
    """``(num_samples, num_groups)`` log-densities of fresh codes of one group under all groups."""
    codes = model.draw_codes(num_samples, group, seed, label)
    parts = [model.code_log_prob(part.to(model.device), label).double().cpu() for part in codes.split(16_384)]
    return torch.cat(parts).numpy()


# ---- adversaries ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attack:
    """How well an adversary guesses the group on rows it was not trained on.

    Args:
        adversary: Its family.
        accuracy: Balanced accuracy: the mean over groups of the share guessed right; 1/k is chance.
        se: Standard error.
        num_rows: Rows it was judged on.
    """

    adversary: str
    accuracy: float
    se: float
    num_rows: int


def attack(
    train: tuple[Array, NDArray[np.int64]],
    test: tuple[Array, NDArray[np.int64]],
    adversaries: Sequence[Adversary] = ADVERSARIES,
    seed: int = 0,
) -> list[Attack]:
    """Trains adversaries on some codes and judges them on others.

    Args:
        train: ``(codes (n, features), group (n,))``; groups are weighed equally.
        test: The same, fresh rows.
        adversaries: ``logistic``: logistic regression. ``mlp``: two hidden layers of 50. ``trees``: boosted trees.
        seed: Seed of their training.
    """
    found = []
    for kind in adversaries:
        guess = _fitted(kind, *train, seed).predict(test[0])
        rates = [(guess == g)[test[1] == g] for g in np.unique(test[1])]
        mean = float(np.mean([r.mean() for r in rates]))
        variance = sum(r.var() / max(len(r) - 1, 1) for r in rates) / len(rates) ** 2
        found.append(Attack(kind, mean, float(np.sqrt(variance)), len(test[1])))
    return found


def _fitted(kind: str, codes: Array, group: NDArray[np.int64], seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if kind == "trees":
        trees = HistGradientBoostingClassifier(class_weight="balanced", random_state=seed, early_stopping=True)
        return trees.fit(codes, group)
    if kind == "logistic":
        line = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=500))
        return line.fit(codes, group)
    if kind != "mlp":
        raise ValueError(f"unknown adversary '{kind}'; use {', '.join(ADVERSARIES)}")
    # the network has no weights of classes: the smaller groups are repeated
    rng = np.random.default_rng(seed)
    counts = np.bincount(group)
    rows = [rng.choice(np.flatnonzero(group == g), counts.max(), replace=True) for g in np.flatnonzero(counts)]
    order = rng.permutation(np.concatenate(rows))
    network = MLPClassifier((50, 50), random_state=seed, early_stopping=len(order) >= 500, max_iter=60)
    network = make_pipeline(StandardScaler(), network)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an adversary that could be trained longer is no finding
        return network.fit(codes[order], group[order])


def attack_on_draws(
    model: FairFlow, num_samples: int = 5000, adversaries: Sequence[Adversary] = ADVERSARIES, seed: int = 0
) -> list[Attack]:
    """Adversaries trained and judged on fresh draws of the fitted densities: what the certificate speaks of."""
    parts = []
    for role in ("train", "test"):
        codes, group = [], []
        for g in range(model.codec.num_groups):
            drawn = model.draw_codes(num_samples, g, seed_of(seed, "adversary", role) % 2**31, model.labels[0])
            codes.append(model.code_features(drawn).cpu().numpy())
            group.append(np.full(num_samples, g))
        parts.append((np.concatenate(codes), np.concatenate(group)))
    return attack(parts[0], parts[1], adversaries, seed)


# ---- people ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What the classifier on codes does to people.

    Args:
        accuracy: Share of rows whose outcome it predicts.
        balanced: The mean over groups of that share.
        parity_gap: Largest difference between two groups in the share that gets a label.
        odds_gap: The same among those whose true outcome is the same, the largest over outcomes.
        num_rows: Labelled rows.
    """

    accuracy: float
    balanced: float
    parity_gap: float
    odds_gap: float
    num_rows: int


@dataclass(frozen=True)
class CodedRows:
    """Rows of people as codes.

    Args:
        features: ``(n, features)`` what a classifier reads.
        group: ``(n,)``.
        label: ``(n,)``, -1 unknown.
        predicted: ``(n,)`` label that the model's classifier gives, or ``None`` without an outcome.
    """

    features: Array
    group: NDArray[np.int64]
    label: NDArray[np.int64]
    predicted: NDArray[np.int64] | None


def coded_rows(model: FairFlow, data: TableData, seed: int = 0) -> CodedRows:
    """Codes of a table's rows; rows that have no code (holes, where codes are states) are left out."""
    batch = data.batch()
    features, group, label, predicted = [], [], [], []
    for start in range(0, len(batch), 8192):
        part = model.codable(batch.select(slice(start, start + 8192)).to(model.device))
        if not len(part):
            continue
        codes = model.codes_of(part, seed)
        features.append(model.code_features(codes).cpu().numpy())
        group.append(model.codec.groups_of(part).cpu().numpy())
        label.append(model.codec.labels_of(part).cpu().numpy())
        if model.codec.outcome is not None:
            with torch.no_grad():
                predicted.append(model.fair.log_label(codes).argmax(1).cpu().numpy())
    if not features:
        raise GenZooError("no row has a code: every one has missing or new categories")
    return CodedRows(
        np.concatenate(features),
        np.concatenate(group),
        np.concatenate(label),
        np.concatenate(predicted) if predicted else None,
    )


def outcomes(rows: CodedRows) -> Outcome | None:
    """Accuracy and gaps of the model's own classifier; ``None`` without one, or without a row of known outcome."""
    known = rows.label >= 0
    if rows.predicted is None or not known.any():
        return None
    guess, label, group = rows.predicted[known], rows.label[known], rows.group[known]
    right = guess == label
    groups = np.unique(group)
    return Outcome(
        accuracy=float(right.mean()),
        balanced=float(np.mean([right[group == g].mean() for g in groups])),
        parity_gap=rate_gap(guess, group),
        odds_gap=max(rate_gap(guess[label == value], group[label == value]) for value in np.unique(label)),
        num_rows=int(known.sum()),
    )


def rate_gap(guess: NDArray[np.int64], group: NDArray[np.int64]) -> float:
    """Largest difference between two groups in the share of rows with one label, over labels."""
    groups = np.unique(group)
    rates = np.array([[np.mean(guess[group == g] == value) for value in np.unique(guess)] for g in groups])
    return float((rates.max(0) - rates.min(0)).max())


@dataclass(frozen=True)
class EstimationGap:
    """How far a group's held-out rows are from its fitted density, at least.

    Args:
        group: The group in words.
        value: Advantage of a classifier that tells rows from draws: a lower estimate of the statistical distance.
        se: Standard error.
        num_rows: Held-out rows it was judged on.
    """

    group: str
    value: float
    se: float
    num_rows: int


def estimation_gap(model: FairFlow, data: TableData, seed: int = 0) -> list[EstimationGap]:
    """For every group, a classifier two-sample test of held-out rows against as many draws of the fitted density.

    Boosted trees are trained on one half of each and judged on the other, both ways. Twice its balanced accuracy less
    one is, in expectation, at most the statistical distance between people and model: what the certificate leaves out.
    Codes are compared, which is the same as comparing rows, since an encoder is a bijection.
    """
    rows = coded_rows(model, data, seed)
    found = []
    for g, name in enumerate(model.codec.group_names()):
        real = rows.features[rows.group == g]
        if len(real) < 40:
            found.append(EstimationGap(name, float("nan"), float("nan"), len(real)))
            continue
        drawn = _draws_like(model, g, rows.label[rows.group == g], seed)
        rng = np.random.default_rng(seed)
        halves = np.array_split(rng.permutation(len(real)), 2)
        advantages, variances = [], []
        for fit, judge in (halves, halves[::-1]):
            train = np.concatenate([real[fit], drawn[fit]]), np.repeat([0, 1], len(fit))
            test = np.concatenate([real[judge], drawn[judge]]), np.repeat([0, 1], len(judge))
            (one,) = attack(train, test, ("trees",), seed)
            advantages.append(2 * one.accuracy - 1)
            variances.append((2 * one.se) ** 2)
        found.append(EstimationGap(name, float(np.mean(advantages)), float(np.sqrt(np.sum(variances)) / 2), len(real)))
    return found


def _draws_like(model: FairFlow, group: int, label: NDArray[np.int64], seed: int) -> Array:
    """As many codes of fresh draws as there are rows, with the rows' labels where densities are by label.

    A row without a label gets one as often as the group has it.
    """
    own = seed_of(seed, "gap") % 2**31
    if model.num_cell_labels == 1:
        return model.code_features(model.draw_codes(len(label), group, own)).cpu().numpy()
    chance = model.codec.log_label()[group].exp().cpu().numpy()
    drawn_label = np.random.default_rng([own, 0x6C61]).choice(len(chance), len(label), p=chance / chance.sum())
    label = np.where(label < 0, drawn_label, label)
    order, parts = [], []
    for value in np.unique(label):
        here = np.flatnonzero(label == value)
        drawn = model.draw_codes(len(here), group, own, int(value))
        order.append(here)
        parts.append(model.code_features(drawn).cpu().numpy())
    return np.concatenate(parts)[np.argsort(np.concatenate(order))]


# ---- the section of a report ----------------------------------------------------------------------------------------

CONDITIONAL = (
    "The certificate holds for draws of the fitted group densities. For people it grows by the distance between each "
    "group and its density, of which the estimation gap is a lower estimate. An adversary on held-out rows above the "
    "certified limit says that a density does not fit. Codes need the group to be computed."
)


def fairness_section(subject: Subject) -> Section | None:
    """Certificate, adversaries, outcomes and estimation gap of a fair representation; ``None`` for other models."""
    from genzoo.models.flows.fair_flow import FairFlow

    model = subject.model
    if not isinstance(model, FairFlow):
        return None
    found = certificate(model, 50_000, seed=subject.seed)
    worst = found.worst
    rows = coded_rows(model, subject.test, subject.seed)
    metrics = [
        Metric(
            "D",
            worst.value,
            "Statistical distance of the codes of two groups under the fitted densities, the largest of all pairs "
            f"({found.criterion}); its upper limit bounds every classifier's gap (Balunovic et al. 2022).",
            "down",
            low=None if worst.num_samples else worst.value,
            high=worst.upper,
            level=1 - (worst.delta or 0.0),
        ),
        Metric(
            "adversary limit",
            worst.adversary_bound,
            "No test guesses the group from a code with a higher balanced accuracy: (1 + D) / 2 at the upper limit; "
            "0.5 is chance for two groups.",
            "down",
        ),
    ]
    result = outcomes(rows)
    if result is not None:
        metrics += [
            Metric(
                "accuracy", result.accuracy, "Share of held-out outcomes that the classifier of codes gets right.", "up"
            ),
            Metric(
                "parity gap",
                result.parity_gap,
                "Largest difference between groups in the share of held-out rows given a label by that classifier.",
                "down",
            ),
            Metric(
                "odds gap",
                result.odds_gap,
                "The same among held-out rows with one true outcome (equalized odds).",
                "down",
            ),
        ]
    grids = [_pairs_grid(found)]
    attacks = _attacks_on_people(model, rows, subject.seed)
    if attacks:
        best = max(attacks, key=lambda a: a.accuracy)
        metrics.append(
            Metric(
                "adversary",
                best.accuracy,
                "Highest balanced accuracy of a logistic regression, a network and boosted trees that guess the group "
                "of held-out rows from their codes (given the outcome, where the certificate is), trained on one half "
                "and judged on the other.",
                "down",
                low=best.accuracy - 1.96 * best.se,
                high=best.accuracy + 1.96 * best.se,
            )
        )
        grids.append(_attack_grid(attacks))
        grids.append(_gap_grid(estimation_gap(model, subject.test, subject.seed)))
    return Section("fairness", tuple(metrics), tuple(grids), note=CONDITIONAL)


def _attacks_on_people(model: FairFlow, rows: CodedRows, seed: int) -> list[Attack]:
    """Adversaries trained on half of the rows and judged on the other, under the condition of the certificate.

    Given the outcome where the criterion is: groups whose outcomes differ may well differ over all rows. Empty where a
    group has too few rows.
    """
    given = [("", np.ones(len(rows.group), dtype=bool))]
    if model.num_cell_labels > 1:
        given = [(f" ({model.codec.label_names()[y]})", rows.label == y) for y in model.labels]
    found = []
    for words, here in given:
        features, group = rows.features[here], rows.group[here]
        if np.bincount(group, minlength=model.codec.num_groups).min() < 40:
            continue
        half = np.zeros(len(group), dtype=bool)
        half[np.random.default_rng(seed).permutation(len(group))[: len(group) // 2]] = True
        attacks = attack((features[half], group[half]), (features[~half], group[~half]), seed=seed)
        found += [replace(a, adversary=a.adversary + words) for a in attacks]
    return found


def _pairs_grid(found: Certificate) -> Grid:
    lines = tuple(
        (a, b, label or "all", f"{d.value:.4f}", f"{d.upper:.4f}", f"{d.adversary_bound:.4f}")
        for (a, b, label), d in found.pairs.items()
    )
    exact = found.worst.num_samples == 0
    note = "sums over all states, without error" if exact else f"{found.worst.num_samples} draws of each density"
    return Grid("Certificate", ("group", "group", "outcome", "D", "upper limit", "adversary limit"), lines, f"{note}.")


def _attack_grid(attacks: Sequence[Attack]) -> Grid:
    lines = tuple((a.adversary, f"{a.accuracy:.4f} ± {a.se:.4f}", str(a.num_rows)) for a in attacks)
    return Grid("Adversaries on held-out rows", ("adversary", "balanced accuracy", "rows"), lines)


def _gap_grid(gaps: Sequence[EstimationGap]) -> Grid:
    lines = tuple((g.group, f"{g.value:.4f} ± {g.se:.4f}", str(g.num_rows)) for g in gaps)
    return Grid(
        "Estimation gap, at least",
        ("group", "advantage of trees that tell rows from draws", "rows"),
        lines,
        "0 within its error: this test finds no difference between people and fitted density.",
    )
