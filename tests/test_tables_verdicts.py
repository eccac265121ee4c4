"""Verdicts on real tables, worked out from the rule of ``genzoo.tables.infer`` and the values themselves.

Each line: column, kind, step (quantized) or ``None``, atoms. The reason stands beside the ones that are not plain.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from genzoo.tables.infer import infer_schema

ALWAYS = None
Verdict = tuple[str, float | None, tuple[float, ...]]

VERDICTS: dict[str, dict[str, Verdict]] = {
    "adult/train": {
        "age": ("quantized", 1.0, ()),
        "workclass": ("categorical", ALWAYS, ()),
        "fnlwgt": ("quantized", 1.0, ()),  # 32,561 rows share 21,648 weights
        "education_num": ("quantized", 1.0, ()),  # 9 holds 32 %, but 10 holds 22 %
        "capital_gain": ("quantized", 1.0, (0.0, 15024.0)),  # 92 % zeros; 15024 on 1.07 %, ten times 14344 and 15831
        "capital_loss": ("quantized", 1.0, (0.0,)),
        "hours_per_week": ("quantized", 1.0, (20.0, 30.0, 40.0, 48.0, 50.0, 60.0)),  # not 45, beside 44 and 46
        "income": ("binary", ALWAYS, ()),
    },
    "shoppers/train": {
        "Administrative": ("quantized", 1.0, ()),
        "Administrative_Duration": ("quantized", ALWAYS, (0.0,)),  # halves, thirds, ...: 59 % tied, no common step
        "Informational_Duration": ("quantized", ALWAYS, (0.0,)),
        "ProductRelated_Duration": ("quantized", ALWAYS, (0.0,)),
        "PageValues": ("mixed", None, (0.0,)),  # 78 % zeros, 1.6 % of the others tied
        "SpecialDay": ("quantized", 0.2, (0.0,)),
        "TrafficType": ("quantized", 1.0, (13.0, 20.0)),
        "Month": ("categorical", ALWAYS, ()),
        "Weekend": ("binary", ALWAYS, ()),
    },
    "eustock_returns/data": dict.fromkeys(("DAX", "SMI", "CAC", "FTSE"), ("mixed", None, (0.0,))),
    "wti_returns/data": {"wti_return": ("mixed", None, (0.0,))},  # 1.6 % zeros; 4.5 % of the others tied
    "danish_fire/data": {"loss": ("quantized", ALWAYS, ())},  # 34 % tied, 15 printed digits
    "california_housing/train": {
        "longitude": ("quantized", 0.01, ()),
        "housing_median_age": ("quantized", 1.0, (52.0,)),  # capped at 52
        "total_rooms": ("quantized", 1.0, ()),
        "median_income": ("quantized", 0.0001, ()),
        "median_house_value": ("quantized", 1.0, (500001.0,)),  # capped
        "ocean_proximity": ("categorical", ALWAYS, ()),
    },
    "beijing/full_with_missing": {
        "pm2.5": ("quantized", 1.0, ()),
        "hour": ("quantized", 1.0, ()),
        "cbwd": ("categorical", ALWAYS, ()),
        "Iws": ("quantized", 0.01, (0.89, 4.02, 4.92, 6.26, 6.71)),
        "Is": ("quantized", 1.0, (0.0,)),
        "Ir": ("quantized", 1.0, (0.0,)),
    },
    "default_credit/train": {
        "LIMIT_BAL": ("quantized", 80.0, (10000.0, 500000.0)),  # thousands, but for one limit of 327,680
        "SEX": ("binary", ALWAYS, ()),
        "PAY_2": ("quantized", 1.0, (2.0,)),
        "BILL_AMT1": ("quantized", 1.0, (0.0,)),
        "PAY_AMT1": ("quantized", 1.0, (0.0, 1000.0, 1500.0, 2000.0, 3000.0, 4000.0, 5000.0, 10000.0)),
    },
    "magic/train": {
        "Length": ("continuous", None, ()),  # four decimals, 3.5 % tied
        "Width": ("quantized", 0.0001, ()),  # four decimals, 7.2 % tied
        "Size": ("quantized", 0.0001, ()),
        "Asym": ("continuous", None, ()),
        "Alpha": ("quantized", 0.0001, ()),
        "class": ("binary", ALWAYS, ()),
    },
    "sick/train": {
        "age": ("quantized", 1.0, ()),
        "hypopituitary": ("constant", ALWAYS, ()),
        "TBG": ("constant", ALWAYS, ()),
        "T3": ("quantized", 0.02, ()),
        "TT4": ("quantized", 0.1, ()),
        "T4U": ("quantized", 0.002, ()),
    },
    "travel/train": {
        "Age": ("quantized", 1.0, ()),
        "FrequentFlyer": ("categorical", ALWAYS, ()),
        "Target": ("binary", ALWAYS, ()),
    },
    "diabetes130/train": {
        "encounter_id": ("continuous", None, ()),  # never repeats
        "patient_nbr": ("quantized", 1.0, ()),
        "weight": ("categorical", ALWAYS, ()),
        "diag_1": ("categorical", ALWAYS, ()),  # 250.83 and V57 alike
        "number_emergency": ("quantized", 1.0, (0.0,)),
        "examide": ("constant", ALWAYS, ()),
    },
    "miniboone_1523/raw": {
        "f0": ("continuous", None, ()),
        "f4": ("quantized", ALWAYS, (0.0,)),  # 10 % on zero, 18 % of the others tied
        "f16": ("quantized", ALWAYS, ()),
        "f42": ("continuous", None, ()),
    },
    "power_37k/raw": {
        "minute_of_day": ("quantized", 1.0, ()),
        "Global_active_power": ("quantized", 0.002, ()),
        "Global_reactive_power": ("quantized", 0.002, (0.0,)),
        "Voltage": ("quantized", 0.01, ()),
        "Sub_metering_1": ("quantized", 1.0, (0.0,)),
        "Sub_metering_2": ("quantized", 1.0, ()),  # 72 % zeros, but 15 % ones
    },
    "power_37k/train": dict.fromkeys(("global_active_power", "voltage", "time"), ("continuous", None, ())),
    "compas/all": {
        "priors_count": ("quantized", 1.0, ()),
        "two_year_recid": ("binary", ALWAYS, ()),
        "c_charge_desc": ("categorical", ALWAYS, ()),
        "diff_jail": ("continuous", None, ()),
    },
    "forestdiffusion27/ionosphere": {
        "a2": ("mixed", None, (-1.0, 0.0, 1.0)),
        "class": ("binary", ALWAYS, ()),
    },
}


@pytest.mark.parametrize("table", VERDICTS)
def test_real_tables_get_the_verdict_worked_out_by_hand(shared_data: Path, table: str) -> None:
    schema = infer_schema(shared_data / f"{table}.parquet", cache=False)
    for name, (kind, step, atoms) in VERDICTS[table].items():
        column = schema[name]
        assert (column.kind, column.atoms) == (kind, pytest.approx(atoms, rel=1e-12)), f"{name}: {column.note}"
        if step is not None:
            assert column.step == pytest.approx(step, rel=1e-12), f"{name}: {column.note}"
        if kind == "quantized":
            assert column.step is not None
            assert column.step > 0


def test_near_unique_names_of_places_are_refused(shared_data: Path) -> None:
    schema = infer_schema(shared_data / "crime" / "data.parquet", refused="ignore", cache=False)
    assert schema["communityname"].role == "ignore"
    assert "too many to learn" in schema["communityname"].note
    assert schema["numbUrban"].atoms == (0.0,)


@pytest.mark.parametrize(
    "table", ["shoppers/train", "california_housing/sklearn_version", "protein/data", "sick/train"]
)
def test_real_tables_keep_their_verdicts_in_other_units(shared_data: Path, table: str) -> None:
    import numpy as np
    import pyarrow as pa

    from genzoo.tables.frames import read_frame, to_arrow

    plain = to_arrow(read_frame(shared_data / f"{table}.parquet"))
    floats = [name for name in plain.column_names if pa.types.is_floating(plain[name].type)]
    before = infer_schema(plain.select(floats), cache=False)
    for factor in (1024.0, 1000.0):
        scaled = {name: np.asarray(plain[name].to_numpy(), dtype=np.float64) * factor for name in floats}
        if factor == 1024.0:  # exact in single precision too
            scaled = {name: values.astype(np.float32) for name, values in scaled.items()}
        after = infer_schema(pa.table({n: pa.array(v, from_pandas=True) for n, v in scaled.items()}), cache=False)
        for old, new in zip(before.columns, after.columns):
            assert new.kind == old.kind
            assert new.atoms == pytest.approx([atom * factor for atom in old.atoms], rel=1e-7)
            if old.step:
                assert new.step == pytest.approx(old.step * factor, rel=1e-9), f"{old.name} x {factor}"
