"""``genzoo fit``: train a model on a table; then test the best checkpoint on held-out rows."""

from __future__ import annotations

from genzoo.commands.given import read_given
from genzoo.commands.help import answered, require_no_both


def run(arguments: list[str]) -> int:
    """Trains, keeps the best checkpoint, and tests it."""
    given = read_given("fit", arguments)
    require_no_both(given)
    if answered(given):
        return 0
    from genzoo.commands.lightning import fit

    return fit(given)
