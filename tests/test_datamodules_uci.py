"""The UCI density benchmarks: each preprocessing rule on a small made-up archive, and the real samples."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from genzoo.datamodules import UCIBenchmark
from genzoo.datamodules.maf import archive as archive_module
from genzoo.datamodules.maf import rules
from genzoo.errors import DataError


def save(path: Path, values: np.ndarray) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)
    return values


def loose(name: str, path: Path) -> UCIBenchmark:
    return UCIBenchmark(name, str(path), check_rows=False)  # type: ignore[arg-type]


def test_tenths_are_rounded_down_and_taken_from_the_end() -> None:
    train, val, test = rules.cut_tenths(np.arange(119.0)[:, None])
    assert (len(train), len(val), len(test)) == (98, 10, 11)
    assert (train[0, 0], val[0, 0], test[0, 0]) == (0, 98, 108)


@pytest.mark.parametrize(("name", "rows"), [("power", 2_049_280), ("gas", 1_052_065), ("miniboone", 36_488)])
def test_row_counts_of_the_benchmarks_follow_from_the_rule(name: str, rows: int) -> None:
    from genzoo.datamodules.uci import SHAPES

    assert tuple(len(part) for part in rules.cut_tenths(np.empty((rows, 0)))) == SHAPES[name][1:]


def test_power_is_shuffled_dithered_and_normalised_with_train_and_validation(tmp_path: Path) -> None:
    raw = save(tmp_path / "power" / "data.npy", np.random.default_rng(0).integers(0, 50, (200, 8)).astype(float))
    table = loose("power", tmp_path)
    rng = np.random.RandomState(42)
    expected = raw.copy()
    rng.shuffle(expected)
    expected = np.delete(expected, [1, 3], axis=1)
    expected[:, 1] += 0.01 * rng.rand(200)
    expected[:, 0] += 0.001 * rng.rand(200)
    expected[:, 2:5] += rng.rand(200, 3)
    mean, sd = expected[:180].mean(0), expected[:180].std(0)
    for split, part in (("train", expected[:162]), ("val", expected[162:180]), ("test", expected[180:])):
        np.testing.assert_array_equal(table.data(split).numeric, ((part - mean) / sd).astype(np.float32))  # type: ignore[arg-type]
    np.testing.assert_allclose(table.log_scale, np.log(sd).sum())
    assert [c.name for c in table.schema.columns][-1] == "time"


def test_gas_drops_correlated_columns_and_normalises_with_all_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    a, b, c = rng.normal(size=(3, 300))
    frame = pd.DataFrame(
        {
            "Time": np.arange(300.0),
            "Meth": rng.normal(size=300),
            "Eth": rng.normal(size=300),
            "s1": a,
            "s2": b,
            "s3": a + 1e-3 * c,
            "s4": -a,
            "s5": b + 1e-3 * c,
            "s6": a + 2e-3 * b,
        }
    )
    kept = ["s4", "s5", "s6"]  # the first of each group of partners goes; -a correlates negatively and stays
    (tmp_path / "gas").mkdir()
    frame.to_csv(tmp_path / "gas" / "ethylene_CO.csv", index=False)
    table = loose("gas", tmp_path)
    assert [column.name for column in table.schema.columns] == kept
    values = frame[kept].to_numpy()
    expected = (values - values.mean(0)) / values.std(0, ddof=1)
    np.testing.assert_allclose(table.data("test").numeric, expected[270:], rtol=1e-6)
    np.testing.assert_allclose(table.data("val").numeric, expected[243:270], rtol=1e-6)
    assert table.ordered

    frame.to_parquet(tmp_path / "gas" / "ethylene_CO.parquet")
    np.testing.assert_array_equal(loose("gas", tmp_path / "gas").data("test").numeric, table.data("test").numeric)


def test_gas_pickle_is_never_opened_and_the_message_says_how_to_convert(tmp_path: Path) -> None:
    (tmp_path / "gas").mkdir()
    (tmp_path / "gas" / "ethylene_CO.pickle").write_bytes(b"not opened")
    with pytest.raises(DataError, match="to_csv"):
        loose("gas", tmp_path).setup()


def test_hepmass_keeps_signal_rows_and_drops_repeated_features(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)

    def rows(count: int) -> np.ndarray:
        values = rng.normal(size=(count, 4))
        values[:, 1] = np.maximum(values[:, 1], -1)  # the smallest value repeats: dropped
        values[:, 3] = np.where(rng.random(count) < 0.5, 2.0, values[:, 3])  # another value repeats: kept
        return np.column_stack([np.arange(count) % 2, values])

    train, test = rows(400), rows(100)
    (tmp_path / "hepmass").mkdir()
    header = "# label,f0,f1,f2,f3"
    np.savetxt(tmp_path / "hepmass" / "1000_train.csv", train, delimiter=",", header=header, comments="")
    np.savetxt(
        tmp_path / "hepmass" / "1000_test.csv",
        np.column_stack([test, np.full(100, 1000.0)]),
        delimiter=",",
        header=header + ",mass",
        comments="",
    )
    table = loose("hepmass", tmp_path)
    assert [column.name for column in table.schema.columns] == ["f0", "f2", "f3"]
    signal = train[train[:, 0] == 1][:, [1, 3, 4]]
    mean, sd = signal.mean(0), signal.std(0, ddof=1)
    assert [len(table.data(split)) for split in ("train", "val", "test")] == [180, 20, 50]
    np.testing.assert_allclose(table.data("val").numeric, (signal[180:] - mean) / sd, rtol=1e-5, atol=1e-6)
    expected = (test[test[:, 0] == 1][:, [1, 3, 4]] - mean) / sd
    np.testing.assert_allclose(table.data("test").numeric, expected, rtol=1e-5, atol=1e-6)


def test_hepmass_rows_longer_than_their_header_keep_their_first_column(tmp_path: Path) -> None:
    rows = np.column_stack([np.ones(30), np.random.default_rng(3).normal(size=(30, 2))])
    (tmp_path / "hepmass").mkdir()
    np.savetxt(tmp_path / "hepmass" / "1000_train.csv", rows, delimiter=",", header="label,f0,f1", comments="")
    longer = np.column_stack([rows, np.full(30, 1000.0)])
    np.savetxt(tmp_path / "hepmass" / "1000_test.csv", longer, delimiter=",", header="label,f0,f1", comments="")
    table = loose("hepmass", tmp_path)
    np.testing.assert_allclose(table.data("test").numeric[:27], table.data("train").numeric, rtol=1e-6)


def test_miniboone_is_split_in_file_order(tmp_path: Path) -> None:
    raw = save(tmp_path / "data" / "miniboone" / "data.npy", np.random.default_rng(4).normal(3, 2, (150, 5)))
    table = loose("miniboone", tmp_path)
    mean, sd = raw[:135].mean(0), raw[:135].std(0)
    np.testing.assert_allclose(table.data("test").numeric, (raw[135:] - mean) / sd, rtol=1e-5, atol=1e-6)
    assert table.name == "miniboone_of_150_rows"
    assert table.data("test").rows.tolist() == list(range(135, 150))
    log_prob = np.array([1.0, 2.0])
    np.testing.assert_allclose(table.to_original_units(log_prob), log_prob - np.log(sd).sum())


def test_bsds300_is_taken_as_it_is(tmp_path: Path) -> None:
    parts = {
        key: np.random.default_rng(5).normal(size=(n, 6)) for key, n in (("train", 20), ("validation", 5), ("test", 7))
    }
    (tmp_path / "BSDS300").mkdir()
    np.savez(tmp_path / "BSDS300" / "BSDS300.npz", **parts)
    table = loose("bsds300", tmp_path)
    np.testing.assert_array_equal(table.data("val").numeric, parts["validation"].astype(np.float32))
    assert table.log_scale == 0


def test_row_counts_are_checked(tmp_path: Path) -> None:
    save(tmp_path / "miniboone" / "data.npy", np.random.default_rng(0).normal(size=(50, 43)))
    with pytest.raises(DataError, match=r"43 columns and 41 / 4 / 5 rows .* 29556 / 3284 / 3648 rows"):
        UCIBenchmark("miniboone", str(tmp_path)).setup()


def test_absent_files_say_where_to_get_them(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=r"10\.5281/zenodo.1161203.*9b9c9b0375315ad270eba4ce80c093ab"):
            UCIBenchmark("power", str(path)).setup()
    with pytest.raises(DataError, match="'path' says where the files of gas are; download"):
        UCIBenchmark("gas").setup()
    with pytest.raises(ValueError, match="unknown benchmark 'powder'"):
        UCIBenchmark("powder", str(tmp_path))  # type: ignore[arg-type]


def test_archive_is_read_unpacked_or_not_after_its_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    save(tmp_path / "miniboone" / "data.npy", np.random.default_rng(6).normal(size=(60, 3)))
    path = tmp_path / "data.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(tmp_path / "miniboone" / "data.npy", "data/miniboone/data.npy")
    with pytest.raises(DataError, match=r"has MD5 [0-9a-f]{32}, and the public archive has 9b9c"):
        loose("miniboone", path).setup()
    monkeypatch.setattr(archive_module, "MD5", hashlib.md5(path.read_bytes()).hexdigest())
    packed, unpacked = loose("miniboone", path), loose("miniboone", tmp_path)
    np.testing.assert_array_equal(packed.data("test").numeric, unpacked.data("test").numeric)
    with pytest.raises(DataError, match=r"has no power/data\.npy"):
        loose("power", path).setup()


def test_a_pickled_array_is_refused(tmp_path: Path) -> None:
    (tmp_path / "power").mkdir()
    np.save(tmp_path / "power" / "data.npy", np.array([[{}]]), allow_pickle=True)
    with pytest.raises(DataError, match="not a plain array"):
        loose("power", tmp_path).setup()


def gaussian_log_prob(train: np.ndarray, test: np.ndarray) -> float:
    mean, factor = train.mean(0), np.linalg.cholesky(np.cov(train, rowvar=False))
    z = np.linalg.solve(factor, (test - mean).T)
    return float((-0.5 * (z**2).sum(0)).mean() - np.log(np.diag(factor)).sum() - 0.5 * len(mean) * np.log(2 * np.pi))


@pytest.mark.parametrize(("name", "expected"), [("miniboone_1523", -35.83), ("power_37k", -7.84)])
def test_samples_equal_the_prepared_files_and_the_stated_gaussian(
    shared_data: Path, name: str, expected: float
) -> None:
    for path in (shared_data, shared_data / name, shared_data / name / "raw.parquet"):
        table = UCIBenchmark(name, str(path))  # type: ignore[arg-type]
        assert table.name == name
    for split, file in (("train", "train"), ("val", "validation"), ("test", "test")):
        prepared = pd.read_parquet(shared_data / name / f"{file}.parquet").to_numpy()
        np.testing.assert_allclose(table.data(split).numeric, prepared, atol=2e-6)  # type: ignore[arg-type]
    assert gaussian_log_prob(table.data("train").numeric, table.data("test").numeric) == pytest.approx(
        expected, abs=0.01
    )
    assert {column.kind for column in table.schema.columns} == {"continuous"}


@pytest.mark.slow
def test_patches_of_the_sample_give_the_stated_gaussian(shared_data: Path) -> None:
    table = UCIBenchmark("bsds300_patches_150k", str(shared_data))
    prepared = table._prepare()
    log_prob = [
        gaussian_log_prob(prepared.train.astype(float), part.astype(float)) for part in (prepared.val, prepared.test)
    ]
    np.testing.assert_allclose(log_prob, [97.1, 95.9], atol=0.06)
