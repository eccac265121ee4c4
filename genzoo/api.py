"""The Python surface: train on a frame, compare fitted models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genzoo.models.base import DensityModel
    from genzoo.reports.comparison import Comparison


def fit(
    table: Any,
    model: str = "spline_flow",
    *,
    schema: Any = None,
    context: Sequence[str] = (),
    seed: int = 0,
    max_epochs: int | None = None,
    minutes: float | None = None,
    trainer: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    run_dir: str | Path | None = None,
    progress: bool = False,
    **model_args: Any,
) -> DensityModel:
    """Trains one density model on a table.

    Args:
        table: A pandas, polars or Arrow frame, a path (CSV, TSV, Parquet, Feather), or ``sklearn:wine``.
        model: Catalogue key (``genzoo models``), class name or class path.
        schema: Schema, dictionary or YAML file; inferred when ``None``.
        context: Columns to condition on.
        seed: Seed of split, weights and noise.
        max_epochs: Upper limit; training stops earlier when validation likelihood stands still.
        minutes: Longest training time.
        trainer: Further arguments of Lightning's Trainer.
        data: Further arguments of the datamodule (``batch_size``, ``split`` ...).
        run_dir: Folder for checkpoints and logs; ``None`` keeps nothing on disk.
        progress: Show a progress bar.
        model_args: Arguments of the model class.

    Returns:
        The trained model, in evaluation mode, on the CPU.

    Raises:
        GenZooError: the table or a column cannot be used, named in the message.

    Example:
        >>> import genzoo
        >>> model = genzoo.fit("sklearn:iris", model="gaussian")
        >>> model.log_prob("sklearn:iris").kind
        'lower_bound'
    """
    from genzoo.datamodules.table import Table
    from genzoo.models.catalogue import model_class
    from genzoo.models.training import quiet, time_limit, train

    quiet()
    kind = model_class(model)
    _require_known(kind, model_args)
    source: dict[str, Any] = {"path": str(table)} if isinstance(table, str | Path) else {"frame": table}
    module = Table(**source, schema=schema, context=list(context), **({"seed": seed} | dict(data or {})))
    module.setup("fit")
    made = kind(schema=module.schema_dict, **({"seed": seed} | model_args))
    options = dict(trainer or {})
    if max_epochs is not None:
        options["max_epochs"] = max_epochs
    if minutes is not None:
        options["max_time"] = time_limit(minutes)
    return train(made, module, run_dir, progress=progress, **options)


def _require_known(kind: type, given: Mapping[str, Any]) -> None:
    from genzoo.commands.parsed import option_names
    from genzoo.commands.parsing import near
    from genzoo.errors import GenZooError

    names = option_names("model", f"{kind.__module__}.{kind.__qualname__}") if given else []
    for name in given:
        if names and name not in names:
            hint = near(name, names) or f"it has {', '.join(names)}; roles and splits go into data={{...}}"
            raise GenZooError(f"{kind.__name__} has no argument '{name}'; {hint}")


def compare(
    models: Mapping[str, DensityModel],
    table: Any,
    *,
    seed: int = 0,
    samples: int = 1000,
    sections: Sequence[str] | None = None,
) -> Comparison:
    """Scores fitted models on the same rows and sets them side by side.

    Args:
        models: Name to fitted model.
        table: Held-out rows: frame or path.
        seed: Seed of evaluation noise and samples.
        samples: Rows drawn from each model for the pictures; 0 draws none.
        sections: Further sections of the report; ``None`` makes those that apply by default, ``("all",)`` every one.

    Returns:
        A comparison with ``to_html(path)``, ``to_markdown(path)``, ``to_csv(path)``, ``to_latex(path)``.

    Raises:
        ComparisonError: the models were trained with different schemas.
    """
    from genzoo.evaluation.likelihood import evaluate_models

    return evaluate_models(dict(models), table, seed=seed, samples=samples, sections=sections)
