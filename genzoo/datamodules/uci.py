"""The UCI density benchmarks: POWER, GAS, HEPMASS, MINIBOONE, BSDS300, and samples of them under their own names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from genzoo.datamodules.base import SPLITS, Split, TableDataModule
from genzoo.datamodules.maf import rules
from genzoo.datamodules.maf.archive import GAS_CONVERSION, Archive, how_to_get, read_array, read_columns, read_splits
from genzoo.errors import DataError
from genzoo.tables.schema import Column, Schema

if TYPE_CHECKING:
    from genzoo.tables.encode import TableData

BenchmarkName = Literal[
    "power", "gas", "hepmass", "miniboone", "bsds300", "power_37k", "miniboone_1523", "bsds300_patches_150k"
]

SHAPES: dict[str, tuple[int, int, int, int]] = {
    "power": (6, 1_659_917, 184_435, 204_928),
    "gas": (8, 852_174, 94_685, 105_206),
    "hepmass": (21, 315_123, 35_013, 174_987),
    "miniboone": (43, 29_556, 3_284, 3_648),
    "bsds300": (63, 1_000_000, 50_000, 250_000),
    "power_37k": (6, 30_200, 3_355, 3_728),
    "miniboone_1523": (43, 1_234, 137, 152),
    "bsds300_patches_150k": (63, 150_000, 7_500, 37_500),
}
"""Columns and rows of train, validation and test. The last three are samples: not comparable with published numbers."""


class UCIBenchmark(TableDataModule):
    """Density benchmarks with the canonical preprocessing, read from files the user has; nothing is downloaded.

    Rows are in benchmark units (standardised; BSDS300 in its own), float32-exact, every column declared continuous with
    the canonical dither, so a mean test log-likelihood is comparable with published ones. ``log_scale`` brings it to
    original units: ``LL_original = LL_benchmark - log_scale``, one constant for all models. POWER's time and GAS's
    sensors are not dithered: look at the spike index beside the number.

    Args:
        name: Data set. ``power_37k``, ``miniboone_1523`` and ``bsds300_patches_150k`` are samples, and results on them
            are not comparable with published ones.
        path: The public archive ``data.tar.gz``, the folder it unpacks to, the data set's own folder, or its file.
            Without it, the error says where to get the archive.
        check_rows: Refuse data whose numbers of rows and columns are not the benchmark's. Without the check, the name
            in reports says how many rows there were.
        batch_size: Training rows a step and device; ``None`` chooses from the number of rows.
        eval_batch_size: Rows a step in validation and test.
        seed: Seed of the order of training rows. Splits are canonical.
        drop_last: Leave out the incomplete last training batch of each epoch.

    Raises:
        DataError: files absent (with the address and checksum of the archive), damaged, or of another size.

    References:
        G. Papamakarios, T. Pavlakou, I. Murray, Masked Autoregressive Flow for Density Estimation, NeurIPS 2017;
        data archive doi:10.5281/zenodo.1161203.
    """

    def __init__(
        self,
        name: BenchmarkName,
        path: str | None = None,
        check_rows: bool = True,
        batch_size: int | None = None,
        eval_batch_size: int = 4096,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        key = name.lower()
        if key not in get_args(BenchmarkName):
            raise ValueError(f"unknown benchmark '{name}'; use one of {', '.join(get_args(BenchmarkName))}")
        path = None if path is None else str(path)
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, seed=seed, drop_last=drop_last)
        self.save_hyperparameters(logger=False)
        self.benchmark, self.path, self.check_rows = key, path, check_rows
        self.name = key
        self.ordered = key == "gas"
        self._prepared: rules.Prepared | None = None

    @property
    def log_scale(self) -> float:
        """``sum_j log s_j``, nats a row: benchmark-unit minus original-unit log-likelihood."""
        return self._prepare().log_scale

    @property
    def scale(self) -> NDArray[np.float64]:
        """``(D,)`` original units per benchmark unit, by column."""
        return self._prepare().scale

    def to_original_units(self, log_prob: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log-likelihoods in original units from ones in benchmark units."""
        return np.asarray(log_prob, dtype=np.float64) - self.log_scale

    def _prepare(self) -> rules.Prepared:
        if self._prepared is None:
            if self.path is None:
                raise DataError(f"'path' says where the files of {self.benchmark} are; {how_to_get()}")
            prepared = self._read(Archive(self.path))
            expected = SHAPES[self.benchmark]
            if prepared.shapes != expected:
                given = "{} columns and {} / {} / {} rows".format(*prepared.shapes)
                if self.check_rows:
                    raise DataError(
                        f"'{self.path}' gives {given} for {self.benchmark}, and the data set has {expected[0]} columns "
                        f"and {expected[1]} / {expected[2]} / {expected[3]} rows; check the files, or pass "
                        "check_rows=False and do not compare with published numbers"
                    )
                self.name = f"{self.benchmark}_of_{sum(prepared.shapes[1:])}_rows"
            self._prepared = prepared
        return self._prepared

    def _read(self, archive: Archive) -> rules.Prepared:
        match self.benchmark:
            case "power":
                return rules.power(read_array(archive, "power/data.npy"))
            case "gas":
                members = [f"gas/ethylene_CO.{ending}" for ending in ("parquet", "csv", "npy")]
                if archive.find("gas/ethylene_CO.pickle") and not any(map(archive.find, members)):
                    raise DataError(GAS_CONVERSION)
                return rules.gas(*read_columns(archive, *members))
            case "hepmass":
                train, _ = read_columns(archive, "hepmass/1000_train.csv")
                test, _ = read_columns(archive, "hepmass/1000_test.csv")
                return rules.hepmass(train, test)
            case "miniboone":
                return rules.miniboone(read_array(archive, "miniboone/data.npy"))
            case "bsds300":
                return rules.as_they_are(*read_splits(archive, "BSDS300/BSDS300.hdf5", "BSDS300/BSDS300.npz"))
            case "miniboone_1523":
                return rules.miniboone(read_columns(archive, "miniboone_1523/raw.parquet")[0])
            case "power_37k":
                return self._power_sample(archive)
            case _:
                return rules.patches(*read_splits(archive, "bsds300_patches_150k/patches.npz"))

    def _power_sample(self, archive: Archive) -> rules.Prepared:
        values, columns = read_columns(archive, "power_37k/raw.parquet")
        wanted = {
            "Global_active_power": 3,
            "Voltage": 2,
            "Sub_metering_1": 0,
            "Sub_metering_2": 0,
            "Sub_metering_3": 0,
            "minute_of_day": 0,
        }
        missing = [name for name in wanted if name not in columns]
        if missing:
            raise DataError(f"'{self.path}' has no column '{missing[0]}'; expected {', '.join(wanted)}")
        # the file holds float32; readings have this many decimals
        six = np.stack([values[:, columns.index(name)].round(digits) for name, digits in wanted.items()], axis=1)
        return rules.dithered_power(six, time_width=1.0)

    def _load(self) -> dict[Split, TableData]:
        from genzoo.tables.encode import TableData

        prepared = self._prepare()
        parts = (prepared.train, prepared.val, prepared.test)
        schema = Schema(
            tuple(Column(name, "continuous", unit="benchmark units") for name in prepared.columns),
            num_rows=sum(map(len, parts)),
            num_training_rows=len(prepared.train),
            fingerprint=_fingerprint(parts),
            source=self.name,
        )
        splits: dict[Split, TableData] = {}
        first = 0
        for split, part in zip(SPLITS, parts, strict=True):
            splits[split] = TableData(
                numeric=part.astype(np.float64),
                codes=np.empty((len(part), 0), dtype=np.int64),
                rows=np.arange(first, first + len(part), dtype=np.int64),
                schema=schema,
            )
            first += len(part)
        return splits


def _fingerprint(parts: tuple[NDArray[np.float32], ...]) -> str:
    import hashlib

    digest = hashlib.sha256()
    for part in parts:
        digest.update(str(part.shape).encode() + np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:16]
