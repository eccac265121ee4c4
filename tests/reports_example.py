"""A small comparison with every case a report must show: exact, bound, upper bound, spikes, failure, oracle, holes."""

from __future__ import annotations

import numpy as np
import pandas as pd

from genzoo.likelihood.log_likelihood import LogLikelihood
from genzoo.reports.comparison import Comparison, DiscretisedResult, ModelResult
from genzoo.tables.schema import Column, Schema

SCHEMA = Schema(
    columns=(
        Column("age", "quantized", storage="int", step=1.0, unit="year"),
        Column("income", "continuous", unit="euro"),
        Column("capital_gain", "mixed", atoms=(0.0,), unit="euro"),
        Column("since", "quantized", storage="date", step=1.0),
        Column("work", "categorical", storage="string", categories=("private", "public", "self-employed", "none")),
        Column("member", "binary", storage="bool", categories=("False", "True")),
        Column("version", "constant", value="7"),
        Column("person_id", "categorical", role="ignore", storage="string"),
    ),
    num_rows=6000,
    num_training_rows=4200,
    fingerprint="6c1f0a9be2d84411",
    source="households",
)


def frame(num: int, seed: int, shift: float = 0.0) -> pd.DataFrame:
    """Rows of the example table; ``shift`` spoils one marginal, as a mediocre model would."""
    rng = np.random.default_rng(seed)
    age = np.clip(np.round(rng.gamma(9, 4.6, num) + shift), 17, 95)
    income = np.exp(9.4 + 0.012 * age + 0.35 * rng.standard_normal(num))
    gain = np.where(rng.random(num) < 0.88 - shift / 40, 0.0, np.exp(7 + rng.standard_normal(num)))
    work = rng.choice(["private", "public", "self-employed", "none"], num, p=[0.62, 0.2, 0.11, 0.07])
    table = pd.DataFrame(
        {
            "age": age,
            "income": income.round(2),
            "capital_gain": gain.round(2),
            "since": pd.Timestamp("2009-03-01")
            + pd.to_timedelta(rng.integers(0, 3000, num) * (1 + (age > 40)) // 2, "D"),
            "work": work,
            "member": rng.random(num) < 0.2 + 0.5 * (work == "public"),
            "version": 7,
            "person_id": [f"p{i}" for i in range(num)],
        }
    )
    table.loc[rng.random(num) < 0.06, "age"] = np.nan
    table.loc[rng.random(num) < 0.03, "work"] = None
    return table


def comparison(num: int = 1200, **changes: object) -> Comparison:
    """Seven models and an oracle on ``num`` rows."""
    rng = np.random.default_rng(7)
    truth = -14.2 + 1.9 * rng.standard_normal(num)
    rows = np.arange(4800, 4800 + num)

    def score(name: str, gap: float, spread: float, kind: str = "exact", **more: object) -> LogLikelihood:
        noise = np.random.default_rng(len(name) + 31).standard_normal(num) * spread
        values = truth - gap + noise
        options = {"counts": {"unseen": 2, "off_grid": 1}, "measure": SCHEMA.measure, "data": SCHEMA.fingerprint} | more
        return LogLikelihood(
            values=values,
            rows=rows,
            kind=kind,  # type: ignore[arg-type]
            discrete=values * 0.4,
            continuous=values * 0.6,
            columns=tuple(c.name for c in SCHEMA.scored),
            model=name,
            **options,  # type: ignore[arg-type]
        )

    def coarse(like: LogLikelihood, index: float) -> DiscretisedResult:
        widths = {"income": 10.0, "capital_gain": 10.0}
        return DiscretisedResult(shifted(like, -index + 2 * np.log(10.0), widths), index, widths, 0.004)

    def shifted(like: LogLikelihood, shift: float, widths: dict[str, float]) -> LogLikelihood:
        values = like.values + shift
        return LogLikelihood(
            values=values,
            rows=like.rows,
            kind=like.kind,
            bias=like.bias,
            columns=like.columns,
            measure=like.measure,
            data=like.data,
            space="discretised",
            settings={"resolutions": widths},
            method="cell probability",
        )

    def curve(end: float, start: float = 31.0, num_points: int = 40) -> list[tuple[float, float]]:
        t = np.arange(num_points)
        wiggle = 0.06 * np.random.default_rng(int(end * 10)).standard_normal(num_points)
        return [(float(50 * i), float(end + (start - end) * np.exp(-i / 5) + wiggle[i])) for i in t]

    flow = score("spline_flow", 0.11, 0.4, method="autoregressive spline, change of variables", settings={"seed": 0})
    coupling = score(
        "coupling_flow",
        0.35,
        0.5,
        "lower_bound",
        method="dequantised, importance-weighted",
        se=np.full(num, 0.21),
        settings={"draws": 16, "seed": 0},
    )
    maf = score("maf", 0.52, 0.5, "lower_bound", method="dequantised, importance-weighted", se=np.full(num, 0.3))
    mixture = score("mixture", 0.74, 0.8, method="closed form")
    floor = score("independent", 2.4, 1.1, method="product of marginals")
    energy = score(
        "energy_model",
        -0.3,
        0.6,
        "upper_bound",
        se_common=0.08,
        method="annealed importance sampling",
        settings={"draws": 1000},
    )
    spiky = score("narrow_mixture", -1.9, 2.5, method="closed form")
    neural_ode = score(
        "neural_ode", 0.3, 0.5, "estimate", bias="none", uses_mask=True, se=np.full(num, 0.1), method="Hutchinson trace"
    )
    results = [
        ModelResult(
            "spline_flow",
            flow,
            discretised=coarse(flow, 0.012),
            samples=frame(1500, 2),
            curves={"train/nll": curve(14.0), "val/nll": curve(14.3)},
            num_parameters=48_213,
            train_seconds=212.0,
            sample_rows_per_second=18_400.0,
            settings={"seed": 0, "max_epochs": 60, "num_transforms": 5},
        ),
        ModelResult(
            "coupling_flow",
            coupling,
            discretised=coarse(coupling, 0.02),
            samples=frame(1500, 3, 1.0),
            curves={"train/nll": curve(14.2), "val/nll": curve(14.5)},
            num_parameters=61_900,
            train_seconds=148.0,
            sample_rows_per_second=92_000.0,
            settings={"seed": 0, "max_epochs": 60},
        ),
        ModelResult(
            "maf",
            maf,
            discretised=coarse(maf, 0.018),
            num_parameters=30_100,
            train_seconds=99.0,
            sample_rows_per_second=8_800.0,
            curves={"val/nll": curve(14.8)},
            settings={"seed": 0},
        ),
        ModelResult(
            "mixture",
            mixture,
            discretised=coarse(mixture, 0.06),
            samples=frame(1500, 4, 2.0),
            num_parameters=2_911,
            train_seconds=6.4,
            sample_rows_per_second=310_000.0,
            settings={"seed": 0, "num_components": 20},
        ),
        ModelResult(
            "independent",
            floor,
            discretised=coarse(floor, 0.0),
            samples=frame(1500, 5, 5.0),
            num_parameters=214,
            train_seconds=0.3,
            sample_rows_per_second=1_200_000.0,
        ),
        ModelResult("energy_model", energy, num_parameters=22_000, train_seconds=800.0, sample_rows_per_second=40.0),
        ModelResult(
            "narrow_mixture",
            spiky,
            discretised=coarse(spiky, 2.31),
            num_parameters=2_911,
            train_seconds=7.0,
            sample_rows_per_second=310_000.0,
        ),
        ModelResult(
            "neural_ode",
            neural_ode,
            discretised=coarse(neural_ode, 0.01),
            num_parameters=40_000,
            train_seconds=1900.0,
            sample_rows_per_second=600.0,
        ),
        ModelResult(
            "forest_flow", error="column 'since' is a date, and forest_flow was stopped after 600 s; raise --timeout"
        ),
        ModelResult("true density", score("true density", 0.0, 1e-9), is_oracle=True),
    ]
    facts: dict[str, object] = {
        "splits": {"training": 4200, "validation": 600, "test": num},
        "split": "random, seed 0",
        "shared_rows": rows[:40].tolist(),
        "versions": {"genzoo": "0.1.0", "torch": "2.13.0", "lightning": "2.6.6", "python": "3.11.9"},
        "seed": 0,
        "created": "2026-01-05",
        "command": "genzoo compare households.csv --models ... -o report.html",
    }
    options = {"data_frame": frame(num, 1), "facts": facts} | changes
    return Comparison(results, SCHEMA, **options)  # type: ignore[arg-type]
