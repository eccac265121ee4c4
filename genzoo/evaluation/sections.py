"""What an evaluation shows beside the likelihood: metrics, small tables and curves of one model, as plain data.

A *maker* looks at one trained model and its held-out rows and returns a :class:`Section`, or ``None`` where it does not
apply. Sections travel as JSON from the process that trained the model to the report, which sets the models of one
section side by side. A new section is one function and one line of :data:`MAKERS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from genzoo.errors import GenZooError

if TYPE_CHECKING:
    from genzoo.models.base import DensityModel
    from genzoo.tables.encode import TableData

Direction = Literal["up", "down", "none"]


@dataclass(frozen=True)
class Metric:
    """One number of one model, with what it means.

    Args:
        name: Short name, a column of the section's table.
        value: The number; ``nan`` where it is not defined.
        definition: One sentence: what is measured, with its reference.
        direction: ``up`` where larger is better, ``down`` where smaller is, ``none`` where neither.
        low: Lower end of its interval, if known.
        high: Upper end.
        level: Confidence of the interval.
        unit: Unit of the number, if it has one.
    """

    name: str
    value: float
    definition: str
    direction: Direction = "none"
    low: float | None = None
    high: float | None = None
    level: float = 0.95
    unit: str = ""


def share_metric(name: str, value: float, error: float, definition: str, direction: Direction = "none") -> Metric:
    """A probability, share or area with a 95 % interval from its standard error, cut to lie between 0 and 1."""
    low, high = max(value - 1.96 * error, 0.0), min(value + 1.96 * error, 1.0)
    return Metric(name, value, definition, direction, low, high)


@dataclass(frozen=True)
class Grid:
    """A small table of text of one model.

    Args:
        title: What it shows.
        head: Names of its columns.
        lines: Its lines, as text.
        note: A sentence below it.
    """

    title: str
    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Curves:
    """A figure of a few lines or dots of one model.

    Args:
        title: What it shows; read aloud with ``summary``.
        x_label: Horizontal axis.
        y_label: Vertical axis.
        series: Name to points ``(x, y)``; the first is drawn as data (dashed, light), the others as the model.
        dots: Draw points instead of lines.
        summary: The figure in words, for those who cannot see it.
    """

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    dots: bool = False
    summary: str = ""


@dataclass(frozen=True)
class Section:
    """What one model shows in one section of the report.

    Args:
        key: Key of :data:`MAKERS`.
        metrics: Numbers that stand side by side for all models.
        grids: Tables of this model.
        curves: Figures of this model.
        note: What a reader must know to read it: conditions, rows left out, why something is not shown.
    """

    key: str
    metrics: tuple[Metric, ...] = ()
    grids: tuple[Grid, ...] = ()
    curves: tuple[Curves, ...] = ()
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Section:
        """Inverse of :meth:`to_dict`, also after a way through JSON."""
        return cls(
            key=plain["key"],
            metrics=tuple(Metric(**m) for m in plain["metrics"]),
            grids=tuple(
                Grid(g["title"], tuple(g["head"]), tuple(map(tuple, g["lines"])), g["note"]) for g in plain["grids"]
            ),
            curves=tuple(
                Curves(**{k: v for k, v in c.items() if k != "series"}, series=_points(c["series"]))
                for c in plain["curves"]
            ),
            note=plain["note"],
        )


def _points(series: Mapping[str, Iterable[Sequence[float]]]) -> dict[str, list[tuple[float, float]]]:
    return {name: [(float(x), float(y)) for x, y in points] for name, points in series.items()}


@dataclass(frozen=True)
class Subject:
    """What a maker may look at.

    Args:
        model: The trained model.
        test: Held-out rows, encoded.
        train: Training rows, encoded, if they are at hand.
        samples: Rows drawn from the model, a pandas frame, if it samples.
        datamodule: Where the rows come from, if it is known (counterfactual columns, groups, order in time).
        seed: Seed of everything random.
    """

    model: DensityModel
    test: TableData
    train: TableData | None = None
    samples: Any = None
    datamodule: Any = None
    seed: int = 0


@dataclass(frozen=True)
class Maker:
    """How a section is made.

    Args:
        title: Its heading in the report.
        lead: One or two sentences below the heading.
        path: ``module:function`` from :class:`Subject` to :class:`Section` or ``None``.
        by_default: Made without being asked for, because it costs little or is what the model is for.
    """

    title: str
    lead: str
    path: str = field(repr=False)
    by_default: bool = True

    def __call__(self, subject: Subject) -> Section | None:
        module, _, name = self.path.partition(":")
        section: Section | None = getattr(import_module(module), name)(subject)
        return section


MAKERS: dict[str, Maker] = {
    "fidelity": Maker(
        "Fidelity",
        "How much samples look like held-out rows, one column, two columns and all columns at a time. The note of each "
        "model says what training rows would score in place of samples: no model can be expected to do better.",
        "genzoo.evaluation.fidelity:fidelity_section",
        by_default=False,
    ),
    "calibration": Maker(
        "Calibration of the density",
        "Whether held-out rows lie where the model puts its mass, and whether spoiled rows lose likelihood.",
        "genzoo.evaluation.calibration:calibration_section",
        by_default=False,
    ),
    "usefulness": Maker(
        "Usefulness",
        "Predictors trained on samples, and on as many training rows, judged on the same held-out rows.",
        "genzoo.evaluation.usefulness:usefulness_section",
        by_default=False,
    ),
    "privacy": Maker(
        "Privacy",
        "Whether samples, or the likelihood itself, give training rows away. Held-out rows are the yardstick.",
        "genzoo.evaluation.privacy:privacy_section",
        by_default=False,
    ),
    "shift": Maker(
        "Shift between training and held-out rows",
        "A test of every number column given the others; where it finds a shift, held-out likelihood is lower for it.",
        "genzoo.evaluation.feature_shift:shift_section",
        by_default=False,
    ),
    "outliers": Maker(
        "Outliers",
        "Whether the likelihood finds rows that were spoiled on purpose.",
        "genzoo.evaluation.outliers:outliers_section",
        by_default=False,
    ),
    "tails": Maker(
        "Tails",
        "Whether rare, large values come as often and as large in samples as in held-out rows; made where a column "
        "is heavy-tailed.",
        "genzoo.evaluation.tails:tails_section",
    ),
    "fairness": Maker(
        "Fairness",
        "What a fair representation certifies about every adversary and classifier, under the fitted densities of the "
        "groups, and what adversaries and the model's own classifier reach on held-out rows.",
        "genzoo.evaluation.fairness:fairness_section",
    ),
    "causal": Maker(
        "Treatments and outcomes",
        "The outcome under each treatment, for everyone: effects with intervals, and how far the treatments overlap.",
        "genzoo.evaluation.causal:causal_section",
    ),
    "imputation": Maker(
        "Imputation",
        "A fifth of the cells of held-out rows is hidden, the same cells for every model, and filled in again.",
        "genzoo.evaluation.imputation:imputation_section",
        by_default=False,
    ),
}


def section_keys(chosen: Sequence[str] | None) -> list[str]:
    """Keys of the sections to make: those asked for, or with ``None`` the ones made by default.

    Raises:
        GenZooError: an unknown section, named with the known ones.
    """
    if chosen is None:
        return [key for key, maker in MAKERS.items() if maker.by_default]
    for key in chosen:
        if key not in MAKERS and key not in ("all", "none"):
            raise GenZooError(f"there is no report section '{key}'; known: {', '.join(MAKERS)}, all, none")
    if "all" in chosen:
        return list(MAKERS)
    return [key for key in MAKERS if key in chosen]


def make_sections(subject: Subject, chosen: Sequence[str] | None = None) -> tuple[Section, ...]:
    """The sections that apply to a model; one that fails for a stated reason keeps the reason as its note."""
    made = []
    for key in section_keys(chosen):
        try:
            section = MAKERS[key](subject)
        except GenZooError as error:
            section = Section(key, note=f"not computed: {error}")
        if section is not None:
            made.append(section)
    return tuple(made)
