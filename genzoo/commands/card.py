"""``genzoo card RUN``: the model card of a trained model."""

from __future__ import annotations

from genzoo.commands.output import require_writable
from genzoo.commands.parsing import Parser, add_output


def run(arguments: list[str]) -> int:
    """Prints the card, or writes it."""
    parser = Parser(
        "card", "What a trained model is, what it was trained on, what was measured, and what it is not for (Markdown)."
    )
    parser.add_argument("run", metavar="RUN", help="run folder or checkpoint")
    add_output(parser, "where the card goes: a .md file", required=False)
    given = parser.parse(arguments)
    target = require_writable(given.output, given.overwrite) if "output" in given else None

    from genzoo.models.checkpoint import load
    from genzoo.reports.card import model_card, stored_test
    from genzoo.reports.writing import write_texts

    text = model_card(load(given.run), stored_test(given.run))
    if target is None:
        print(text, end="")
    else:
        write_texts({target: text}, given.overwrite)
        print(f"wrote {target}")
    return 0
