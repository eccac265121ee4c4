"""``genzoo doctor``: versions, devices, optional packages and what a missing one would add."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from genzoo.commands.parsing import Parser

NEEDED = ("genzoo", "torch", "lightning", "numpy", "pandas", "pyarrow", "narwhals", "scikit-learn", "scipy")
OPTIONAL = {
    "polars": ("polars", "polars", "polars frames in and out"),
    "distributed": ("dask", "dask", "--dask: scoring, sampling, imputing and tree training on many processes"),
    "optuna": ("optuna", "tune", "genzoo tune: a search for better hyper-parameters"),
    "safetensors": ("safetensors", "export", "genzoo export: weights for serving without Lightning"),
    "onnxscript": ("onnxscript", "onnx", "genzoo export --onnx: likelihoods for serving without GenZoo"),
    "onnxruntime": ("onnxruntime", "onnx", "a check of every ONNX file against torch"),
}
LOW_DISK = 2.0


def run(arguments: list[str]) -> int:
    """Prints what this installation can do; ends with 1 if something that is needed does not work."""
    Parser("doctor", "Versions, devices, optional packages and what each missing one would add.").parse(arguments)
    lines, troubles = check_up()
    print("\n".join(lines))
    print()
    for trouble in troubles:
        print(f"trouble: {trouble}")
    print("GenZoo can work here." if not troubles else f"{len(troubles)} of the checks failed.")
    return 1 if troubles else 0


def check_up() -> tuple[list[str], list[str]]:
    """What was found, line by line, and what is wrong, in sentences that say what to do."""
    lines = [f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"]
    troubles = []
    lines += ["", "packages"]
    for package in NEEDED:
        found = _version(package)
        lines.append(f"  {package:<14} {found or 'missing'}")
        if found is None:
            troubles.append(f"package {package} is missing; install GenZoo again: pip install genzoo")
    trees = next((f"{name} {found}" for name in ("xgboost", "xgboost-cpu") if (found := _version(name))), None)
    lines.append(f"  {'xgboost':<14} {trees or 'missing'}")
    if trees is None:
        troubles.append("xgboost is missing, so tree models cannot train; pip install xgboost-cpu")
    lines += ["", "optional"]
    for module, (package, extra, adds) in OPTIONAL.items():
        found = _version(package) if find_spec(module) is not None else None
        shown = found or f'missing: pip install "genzoo[{extra}]"'
        lines.append(f"  {package:<14} {shown:<38} {adds}")
    if not any(trouble.startswith("package torch") for trouble in troubles):
        lines += ["", "devices", *devices()]
    lines += ["", "places"]
    here = Path.cwd()
    free = shutil.disk_usage(here).free / 2**30
    lines.append(f"  runs go to     {here / 'runs'} ({free:.1f} GiB free)")
    if not os.access(here, os.W_OK):
        troubles.append(f"the folder {here} cannot be written to; work in another one, or give --run_dir")
    if free < LOW_DISK:
        troubles.append(f"only {free:.1f} GiB are free in {here}; a run keeps two checkpoints")
    return lines, troubles


def devices() -> list[str]:
    """Where models can train, with the precisions that count there."""
    import torch

    lines = [f"  cpu            {os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads; float64 yes"]
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        half = "yes" if torch.cuda.is_bf16_supported() else "no"
        lines.append(
            f"  cuda:{index:<9} {card.name}, {card.total_memory / 2**30:.0f} GiB; float64 yes, bf16-mixed {half}"
        )
    if not torch.cuda.device_count():
        built = torch.version.cuda
        lines.append(f"  cuda           none ({'no card found' if built else 'this torch is built without it'})")
    if torch.backends.mps.is_available():
        lines.append("  mps            yes; float64 no: scales and sums run on the cpu")
    return lines


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
