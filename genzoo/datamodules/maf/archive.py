"""Finds and opens the files of the public archive of the UCI density benchmarks, unpacked or not."""

from __future__ import annotations

import hashlib
import tarfile
import warnings
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from genzoo.errors import DataError

ADDRESS = "https://doi.org/10.5281/zenodo.1161203"
MD5 = "9b9c9b0375315ad270eba4ce80c093ab"

GAS_CONVERSION = (
    "gas/ethylene_CO.pickle was written by an old pandas, and opening a pickle runs code, so it is not opened here; "
    'convert it once in a separate environment with \'pip install "pandas<2" "numpy<2"\' and '
    "python -c \"import pandas; pandas.read_pickle('gas/ethylene_CO.pickle').to_csv('gas/ethylene_CO.csv', "
    'index=False)", then run again with the folder (a .parquet of the same columns does too, or a .npy without the '
    "columns Time, Meth and Eth)"
)


class Archive:
    """The folder ``data.tar.gz`` unpacks to, the archive itself, the folder of one data set, or one file.

    Args:
        path: What the user gave.
        check_md5: Compare the MD5 of an archive that is not unpacked.

    Raises:
        DataError: no such path, or an archive that is damaged or another.
    """

    def __init__(self, path: str | Path, check_md5: bool = True) -> None:
        self.path = Path(path).expanduser()
        if not self.path.exists():
            raise DataError(f"no file or folder '{self.path}'; {how_to_get()}")
        self.is_tar = self.path.is_file() and self.path.name.endswith((".tar.gz", ".tgz", ".tar"))
        if self.is_tar and check_md5:
            with self.path.open("rb") as file:
                found = hashlib.file_digest(file, "md5").hexdigest()
            if found != MD5:
                raise DataError(
                    f"'{self.path}' has MD5 {found}, and the public archive has {MD5}; download it again from {ADDRESS}"
                )

    def find(self, member: str) -> Path | None:
        """Where ``member`` (such as ``power/data.npy``) is, or ``None``."""
        folder, file = member.split("/")
        if self.is_tar:
            return Path(member) if self._tar_name(member) is not None else None
        if self.path.is_file():
            return self.path if self.path.suffix == Path(file).suffix else None
        candidates = [self.path / member, self.path / "data" / member]
        if self.path.name.lower() == folder.lower():
            candidates.append(self.path / file)
        return next((candidate for candidate in candidates if candidate.is_file()), None)

    def open(self, *members: str) -> tuple[IO[bytes], str]:
        """The first of ``members`` that is there, and its ending.

        Raises:
            DataError: none is there.
        """
        for member in members:
            where = self.find(member)
            if where is None:
                continue
            if not self.is_tar:
                return where.open("rb"), where.suffix
            with tarfile.open(self.path) as archive:
                name = self._tar_name(member)
                file = archive.extractfile(name) if name else None
                assert file is not None
                return BytesIO(file.read()), where.suffix
        raise DataError(f"'{self.path}' has no {' or '.join(members)}; {how_to_get()}")

    def _tar_name(self, member: str) -> str | None:
        try:
            with tarfile.open(self.path) as archive:
                return next((name for name in archive.getnames() if f"/{name}".endswith(f"/{member}")), None)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise DataError(f"'{self.path}' cannot be read as an archive ({error}); download it again") from error


def how_to_get() -> str:
    return (
        f"download data.tar.gz from {ADDRESS} (MD5 {MD5}) and give its path, the folder it unpacks to, or one of its "
        "folders"
    )


def read_array(archive: Archive, member: str) -> NDArray[np.float64]:
    """A two-dimensional array from a ``.npy`` file."""
    file, _ = archive.open(member)
    with file:
        try:
            values = np.load(file, allow_pickle=False)
        except ValueError as error:
            raise DataError(f"{member} under '{archive.path}' is not a plain array file: {error}") from error
    if values.ndim != 2:
        raise DataError(f"{member} under '{archive.path}' has shape {values.shape}; expected rows and columns")
    return np.asarray(values)


def read_columns(archive: Archive, *members: str) -> tuple[NDArray[np.float64], list[str]]:
    """Numbers and column names from a ``.csv``, ``.parquet`` or ``.npy`` file."""
    import pandas as pd

    file, ending = archive.open(*members)
    with file:
        if ending == ".npy":
            values = np.load(file, allow_pickle=False)
            return values, [f"f{j}" for j in range(values.shape[1])]
        if ending == ".parquet":
            frame = pd.read_parquet(file)
        else:
            with warnings.catch_warnings():
                # rows with one value more than the header keep their first column and lose the last, as is wanted
                warnings.simplefilter("ignore", pd.errors.ParserWarning)
                frame = pd.read_csv(file, index_col=False)
    return frame.to_numpy(dtype=np.float64), [str(name).strip() for name in frame.columns]


def read_splits(archive: Archive, *members: str) -> list[Any]:
    """Arrays ``train``, ``validation`` and ``test`` from an ``.hdf5`` or ``.npz`` file."""
    file, ending = archive.open(*members)
    keys = ("train", "validation", "test")
    with file:
        if ending == ".npz":
            opened: Any = np.load(file, allow_pickle=False)
        else:
            try:
                import h5py
            except ImportError as error:
                raise DataError(
                    "reading BSDS300.hdf5 needs h5py: pip install h5py (or give BSDS300.npz with the arrays train, "
                    "validation and test)"
                ) from error
            opened = h5py.File(file, "r")
        missing = [key for key in keys if key not in opened]
        if missing:
            raise DataError(f"'{archive.path}' has no array '{missing[0]}'; expected {', '.join(keys)}")
        return [np.asarray(opened[key]) for key in keys]
