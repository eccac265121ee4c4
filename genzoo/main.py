"""The ``genzoo`` command: a light dispatcher. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from genzoo.errors import GenZooError

COMMANDS: dict[str, str] = {
    "fit": "train a model on a table, then test it on held-out rows",
    "validate": "log-likelihood of a trained model on its validation rows",
    "test": "log-likelihood of a trained model on its test rows",
    "predict": "log-likelihood of each test row, as a file",
    "schema": "what each column of a table is taken for, and its base measure",
    "sample": "draw rows from a trained model",
    "impute": "fill in the missing cells of a table",
    "effect": "densities, quantiles and effects of an outcome under each treatment",
    "score": "log-likelihood of each row of a table",
    "classify": "probability of each category of a column given the rest of a row",
    "encode": "the fair representation of a table, and the way back",
    "compare": "train several models on one table and report which describes it best",
    "report": "compare runs that exist, on their test rows or on new ones",
    "card": "model card of a trained model: data, split, measured numbers, limits",
    "export": "a trained model as safetensors and JSON, or its likelihood as ONNX, for serving",
    "tune": "search for better hyper-parameters of a model on a table",
    "models": "the catalogue of models",
    "doctor": "versions, devices, optional packages and what a missing one would add",
}

INTERRUPTED = 130
FAILED = 1
WRONG_INPUT = 2


def usage() -> str:
    """The text of ``genzoo --help``."""
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items())
    return (
        "usage: genzoo COMMAND [options]\n\n"
        "Train density models on a table and compare likelihoods that mean the same thing.\n\n"
        f"commands:\n{lines}\n\n"
        "options:\n"
        "  -h, --help     this text; genzoo COMMAND --help for one command\n"
        "  --version      the installed version\n"
        "  --debug        show the traceback of an error\n\n"
        "first steps:\n"
        "  genzoo schema my.csv\n"
        "  genzoo compare my.csv --models independent,gaussian,spline_flow -o report.html\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: Arguments without the program's name; ``None`` takes those of the process.

    Returns:
        Exit code: 0 done, 1 unexpected error, 2 input that cannot be used, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        return _dispatch(arguments)
    except SystemExit as stop:  # argparse and jsonargparse leave so after --help
        return stop.code if isinstance(stop.code, int) else (0 if stop.code is None else WRONG_INPUT)
    except KeyboardInterrupt as interrupt:
        if debug:
            raise
        kept = str(interrupt) or "nothing was written"
        print(f"genzoo: interrupted; {kept}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # the reader of our output left (genzoo models | head); silence the flush at exit as well
        sys.stdout = None  # type: ignore[assignment]
        return 0
    except (GenZooError, ValueError, TypeError, OSError) as error:
        if debug:
            raise
        print(f"genzoo: error: {sentence(error)}", file=sys.stderr)
        return WRONG_INPUT
    except Exception as error:
        if debug:
            raise
        print(
            f"genzoo: error: unexpected {type(error).__name__}: {sentence(error)} (--debug shows where it happened)",
            file=sys.stderr,
        )
        return FAILED


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage(), end="")
        return 0 if arguments else WRONG_INPUT
    if arguments[0] == "--version":
        from genzoo import __version__

        print(f"genzoo {__version__}")
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        from genzoo.commands.parsing import UsageError, near

        raise UsageError(f"unknown command '{name}'; {near(name, COMMANDS) or 'genzoo --help lists them'}")
    run = import_module(f"genzoo.commands.{name}").run
    return int(run(arguments[1:]))


def sentence(error: BaseException) -> str:
    """An error's message on one line."""
    if isinstance(error, OSError) and error.strerror:
        where = f" '{error.filename}'" if error.filename else ""
        return f"{error.strerror}:{where}" if where else error.strerror
    text = " ".join(str(error).split())
    return text or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
