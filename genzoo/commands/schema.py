"""``genzoo schema FILE``: what each column is taken for; edit the YAML and give it back with ``--data.schema``."""

from __future__ import annotations

from genzoo.commands.output import require_writable
from genzoo.commands.parsing import Parser, words


def run(arguments: list[str]) -> int:
    """Prints the schema of a table and, with ``-o``, writes it as YAML."""
    parser = Parser("schema", "What each column of a table is taken for: its base measure.")
    parser.add_argument("file", metavar="FILE", help="csv, tsv, parquet, feather; or sklearn:wine, genzoo:adult")
    parser.add_argument("-o", "--output", metavar="YAML", help="write the schema here, to edit")
    parser.add_argument("--overwrite", action="store_true", help="replace YAML if it exists")
    parser.add_argument("--context", type=words, default=[], metavar="A,B", help="columns to condition on")
    parser.add_argument("--ignore", type=words, default=[], metavar="A,B", help="columns to leave out")
    parser.add_argument("--weight", metavar="A", help="column that says how much each row counts")
    given = parser.parse(arguments)
    target = require_writable(given.output, given.overwrite) if given.output else None

    from rich.console import Console

    from genzoo.tables.infer import infer_schema
    from genzoo.tables.show import save_schema, schema_table

    roles = {"context": given.context, "ignore": given.ignore, "weight": [given.weight] if given.weight else []}
    schema = infer_schema(given.file, roles=roles, refused="ignore")
    Console().print(schema_table(schema))
    refused = [column for column in schema.columns if column.doubt == "refused"]
    for column in refused:
        print(f"left out: {column.note}")
    if refused:
        print("fit and compare ask what to do with these: --ignore NAME (fit: --data.ignore NAME), or a schema (-o)")
    if target is not None:
        save_schema(schema, target, overwrite=given.overwrite)
        print(f"wrote {target}; edit it, then: genzoo fit {given.file} --data.schema {target}")
    return 0
