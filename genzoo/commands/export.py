"""``genzoo export RUN``: a trained model as safetensors and JSON, or its likelihood as ONNX, for serving."""

from __future__ import annotations

from genzoo.commands.parsing import Parser, UsageError


def run(arguments: list[str]) -> int:
    """Writes the folder, the ONNX file, or both, and says how to open them."""
    parser = Parser(
        "export",
        "Write a trained model as safetensors and JSON (-o): genzoo.load(FOLDER) opens it where torch is installed and "
        "Lightning is not, and every command takes the folder as RUN. Or write its log-likelihood as an ONNX graph "
        "(--onnx), which any ONNX runtime scores rows with, without GenZoo and torch.",
    )
    parser.add_argument("run", metavar="RUN", help="run folder or checkpoint")
    parser.add_argument("-o", "--output", metavar="FOLDER", help="folder to make")
    parser.add_argument("--onnx", metavar="FILE", help="ONNX file to write, for models whose likelihood is exact")
    parser.add_argument("--check", metavar="ROWS", help="rows to check the ONNX file on, beside rows that are drawn")
    parser.add_argument("--overwrite", action="store_true", help="replace the ONNX file if it exists")
    given = parser.parse(arguments)
    if given.output is None and given.onnx is None:
        raise UsageError("genzoo export: say where to, with -o FOLDER or --onnx FILE; see genzoo export --help")
    if given.onnx is None and (given.check is not None or given.overwrite):
        raise UsageError("genzoo export: --check and --overwrite belong to --onnx FILE; see genzoo export --help")

    from genzoo.models.checkpoint import load

    model = load(given.run)
    if given.output is not None:
        from genzoo.models.export import export_model

        target = export_model(model, given.output)
        size = sum(path.stat().st_size for path in target.iterdir()) / 2**20
        print(f'wrote {target} ({size:.1f} MiB); open it with genzoo.load("{target}")')
    if given.onnx is not None:
        from genzoo.models.onnx_export import export_onnx

        written = export_onnx(model, given.onnx, rows=given.check, overwrite=given.overwrite)
        size = written.path.stat().st_size / 2**20
        print(f"wrote {written.path} ({size:.1f} MiB); inputs {', '.join(written.inputs)}, output log_prob")
        if written.difference is None:
            print('not checked against torch: onnxruntime is missing; pip install "genzoo[onnx]"')
        else:
            print(f"largest difference to torch on {written.num_rows} rows: {written.difference:.1g} nats")
    return 0
