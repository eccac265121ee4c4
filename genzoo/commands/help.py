"""Help of the training commands that needs no torch, and checks before it is imported."""

from __future__ import annotations

from genzoo.commands.given import FIT, OPTIONS, Given
from genzoo.commands.parsing import UsageError

EXAMPLES = {
    "fit": (
        "Train a model on a table, keep the best checkpoint, and test it on held-out rows.",
        [
            "genzoo fit my.csv --model spline_flow --minutes 5",
            "genzoo fit my.csv --model SplineFlow --data Table --data.schema schema.yaml --model.lr 1e-3",
            "genzoo fit --config configs/recipes/adult_spline_flow.yaml --seed 1",
            "genzoo fit --ckpt_path runs/RUN/checkpoints/last.ckpt --trainer.max_epochs 200",
        ],
    ),
    "validate": (
        "Log-likelihood of a trained model on its validation rows. Model and data come from the checkpoint.",
        ["genzoo validate runs/RUN"],
    ),
    "test": (
        "Log-likelihood of a trained model on its test rows. The checkpoint gives model and data; what is typed wins.",
        ["genzoo test runs/RUN", "genzoo test runs/RUN --model.draws 64"],
    ),
    "predict": (
        "Log-likelihood of each test row, as a file in a new run folder. Model and data come from the checkpoint.",
        ["genzoo predict runs/RUN"],
    ),
}


def help_text(command: str) -> str:
    """What ``genzoo fit --help`` prints."""
    summary, examples = EXAMPLES[command]
    shown = [
        name
        for name in OPTIONS
        if not (command != "fit" and name in FIT) and not (command == "validate" and name == "run_dir")
    ]
    width = max(map(len, shown)) + 2
    lines = [
        f"usage: genzoo {command} [{'TABLE' if command == 'fit' else 'RUN'}] [options]",
        "",
        summary,
        "",
        "options:",
    ]
    lines += [f"  {'--' + name:<{width}}  {OPTIONS[name]}" for name in shown]
    lines += [
        f"  {'--print_config':<{width}}  the full configuration as YAML, then stop",
        "",
        "arguments of one class:",
        "  --model.help NAME    of a model, e.g. --model.help spline_flow",
        "  --data.help NAME     of a data source, e.g. --data.help Table",
        "  --help_all           every option, with those of the Trainer (takes some seconds)",
        "",
        "examples:",
        *[f"  {example}" for example in examples],
    ]
    return "\n".join(lines) + "\n"


def answered(given: Given) -> bool:
    """Prints the help that was asked for, if any."""
    if "help" in given.flags:
        print(help_text(given.command), end="")
        return True
    if given.helps is not None or "help_all" in given.flags:
        from genzoo.commands.lightning import print_help

        print_help(given)
        return True
    return False


def require_checkpoint(given: Given) -> None:
    """Checks that an evaluation names its checkpoint.

    Raises:
        UsageError: it does not.
    """
    if not given.option("ckpt_path"):
        raise UsageError(
            f"genzoo {given.command} needs a trained model: genzoo {given.command} RUN (a run folder or a .ckpt file)"
        )


def require_no_both(given: Given) -> None:
    """Checks that a fit does not both resume and start warm.

    Raises:
        UsageError: it does.
    """
    if given.option("ckpt_path") and given.option("warm_start"):
        raise UsageError("--ckpt_path resumes a run, --warm_start begins a new one from its weights; give one of them")
