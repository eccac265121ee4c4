"""``genzoo export RUN -o FOLDER``: a trained model as safetensors and JSON, for serving without Lightning."""

from __future__ import annotations

from genzoo.commands.parsing import Parser


def run(arguments: list[str]) -> int:
    """Writes the folder and says how to open it."""
    parser = Parser(
        "export",
        "Write a trained model as safetensors and JSON. genzoo.load(FOLDER) opens it where torch is installed and "
        "Lightning is not, and every command takes the folder as RUN.",
    )
    parser.add_argument("run", metavar="RUN", help="run folder or checkpoint")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="folder to make")
    given = parser.parse(arguments)

    from genzoo.models.checkpoint import load
    from genzoo.models.export import export_model

    target = export_model(load(given.run), given.output)
    size = sum(path.stat().st_size for path in target.iterdir()) / 2**20
    print(f'wrote {target} ({size:.1f} MiB); open it with genzoo.load("{target}")')
    return 0
