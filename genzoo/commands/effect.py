"""``genzoo effect RUN -o FOLDER``: densities, quantiles and effects of an outcome under each treatment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from genzoo.commands.output import new_folder
from genzoo.commands.parsing import Parser
from genzoo.errors import CapabilityError, DataError

if TYPE_CHECKING:
    from genzoo.models.flows.interventional_effects import Effects
    from genzoo.models.flows.interventional_flow import InterventionalFlow


def run(arguments: list[str]) -> int:
    """Writes tables and a picture into a new folder, and prints the effects."""
    parser = Parser(
        "effect",
        "What an interventional flow says of each treatment. The folder gets densities.csv, quantiles.csv, "
        "effects.csv, overlap.csv and effect.svg.",
    )
    parser.add_argument("run", metavar="RUN", help="run folder or checkpoint of an interventional flow")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="a new or empty folder")
    parser.add_argument("--reference", help="treatment that others are compared with; by default the first")
    parser.add_argument(
        "--levels", type=_levels, default="0.05,0.1,0.25,0.5,0.75,0.9,0.95", metavar="A,B", help="levels of quantiles"
    )
    parser.add_argument("--confidence", type=_share, default=0.95, help="of the intervals")
    given = parser.parse(arguments)

    from genzoo.models.checkpoint import load
    from genzoo.models.flows.interventional_flow import InterventionalFlow

    model = load(given.run)
    if not isinstance(model, InterventionalFlow):
        raise CapabilityError(
            f"'{given.run}' holds a {type(model).__name__}; effects are read off an interventional_flow"
        )
    found = model.effects(
        reference=0 if given.reference is None else given.reference, levels=given.levels, confidence=given.confidence
    )
    try:
        folder = new_folder(given.output)
    except DataError as error:
        raise DataError(f"'{given.output}' exists or cannot be made; give -o a new folder") from error
    write_tables(model, found, folder)
    picture(model, found, folder / "effect.svg")
    for line in sentences(found, model.outcome.name):
        print(line)
    print(f"wrote densities.csv, quantiles.csv, effects.csv, overlap.csv and effect.svg to {folder}")
    return 0


def sentences(found: Effects, outcome: str) -> list[str]:
    """The means and effects in words, and a warning where an arm has no neighbours for many rows."""
    lines = []
    for arm in found.arms:
        m = arm.mean
        lines.append(f"E {outcome}[{arm.name}] = {m.value:.4g} [{m.low:.4g}, {m.high:.4g}]")
        if arm.contrast is not None:
            c = arm.contrast
            lines.append(f"  effect against {found.reference}: {c.value:.4g} [{c.low:.4g}, {c.high:.4g}]")
        if arm.beyond_support > 0.05:
            lines.append(
                f"  {100 * arm.beyond_support:.0f} % of the rows are less likely to receive '{arm.name}' than any row "
                "that did; for them the outcome is extrapolated"
            )
    lines.append(
        f"intervals: {100 * found.confidence:.0f} %; all hold only if every confounder is among the covariates and "
        "every row could have received every treatment"
    )
    return lines


def write_tables(model: InterventionalFlow, found: Effects, folder: Path) -> None:
    """The four tables of the command."""
    import numpy as np
    import pyarrow as pa

    from genzoo.models.flows.interventional_effects import density_curve
    from genzoo.tables.frames import write_frame

    curves = [density_curve(model, a) for a in range(len(model.arms))]
    densities: dict[str, Any] = {model.outcome.name: curves[0][0]}
    densities |= {f"density:{name}": curve[1] for name, curve in zip(model.arms, curves, strict=True)}
    quantiles = [
        {"treatment": arm.name, "level": level, "value": q.value, "se": q.se, "low": q.low, "high": q.high}
        for arm in found.arms
        for level, q in arm.quantiles.items()
    ]
    effects = []
    for arm in found.arms:
        entries: list[tuple[str, float | None, Any]] = [("mean", None, arm.mean)]
        entries += [("effect on the mean", None, arm.contrast)]
        entries += [("effect on the quantile", level, q) for level, q in arm.quantile_contrasts.items()]
        for what, level, e in entries:
            if e is not None:
                against = found.reference if what != "mean" else None
                effects.append(
                    {"treatment": arm.name, "reference": against, "what": what, "level": level, "value": e.value}
                    | {"se": e.se, "low": e.low, "high": e.high}
                )
    counts = model.measure.propensities.cpu().numpy()
    ends = np.linspace(0, 1, counts.shape[2] + 1)
    overlap = [
        {"treatment": name, "received": other, "propensity_from": ends[i], "propensity_to": ends[i + 1], "rows": int(n)}
        for a, name in enumerate(model.arms)
        for received, other in enumerate(model.arms)
        for i, n in enumerate(counts[received, a])
    ]
    write_frame(pa.table(densities), folder / "densities.csv")
    for file, lines in (("quantiles", quantiles), ("effects", effects), ("overlap", overlap)):
        write_frame(pa.Table.from_pylist(lines), folder / f"{file}.csv")


def picture(model: InterventionalFlow, found: Effects, path: Path) -> None:
    """Densities with means and their intervals above, propensities by treatment received below."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    from genzoo.models.flows.interventional_effects import density_curve

    figure = Figure(figsize=(7.0, 6.0), layout="constrained")
    FigureCanvasSVG(figure)
    top, bottom = figure.subplots(2, 1, height_ratios=(2, 1))
    styles = ["-", "--", ":", "-."]
    for a, arm in enumerate(found.arms):
        x, density = density_curve(model, a)
        style = styles[a % len(styles)]
        (line,) = top.plot(x, density, style, label=f"under {arm.name}")
        top.axvspan(arm.mean.low, arm.mean.high, color=line.get_color(), alpha=0.2, linewidth=0)
        top.axvline(arm.mean.value, color=line.get_color(), linestyle=style, linewidth=0.8)
    unit = f" ({model.outcome.unit})" if model.outcome.unit else ""
    top.set(xlabel=f"{model.outcome.name}{unit}", ylabel="density", title="Outcome under each treatment")
    top.legend(frameon=False)
    counts = model.measure.propensities.cpu().numpy()
    last = len(found.arms) - 1
    width = 1 / counts.shape[2]
    for received, arm in enumerate(found.arms):
        share = counts[received, last] / max(counts[received, last].sum(), 1)
        left = [i * width for i in range(counts.shape[2])]
        bottom.step([*left, 1.0], [*share, share[-1]], styles[received % len(styles)], where="post", label=arm.name)
    bottom.set(
        xlabel=f"probability of treatment {found.arms[last].name} given the covariates",
        ylabel="share of rows",
        title="Overlap, by treatment received",
    )
    bottom.legend(frameon=False)
    figure.savefig(path, format="svg")


def _levels(text: str) -> list[float]:
    import argparse

    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of numbers such as 0.1,0.5,0.9") from None
    if not all(0 < level < 1 for level in found):
        raise argparse.ArgumentTypeError(f"levels lie between 0 and 1, got {text}")
    return found


def _share(text: str) -> float:
    return _levels(text)[0]
