"""``genzoo predict RUN``: log-likelihood of each test row, written as a file into a new run folder."""

from __future__ import annotations

from genzoo.commands.given import read_given
from genzoo.commands.help import answered, require_checkpoint


def run(arguments: list[str]) -> int:
    """Evaluates a checkpoint; model, data and options come from it, and what is typed wins."""
    given = read_given("predict", arguments)
    if answered(given):
        return 0
    require_checkpoint(given)
    from genzoo.commands.lightning import evaluate

    return evaluate(given)
