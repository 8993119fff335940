"""`export`: writes a run's model as a folder that other libraries load, and shows that it answers as the run does."""

from pathlib import Path

from sft_lightning.cli.parser import Parser


def make_parser() -> Parser:
    """Builds the parser of `export`."""
    parser = Parser(
        "export",
        description="Write a finished run's model as a folder that other libraries load. That library then loads it in a "
        "fresh process, and must give the run's own answers on validation samples; otherwise no folder is left.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's directory")
    parser.add_argument("--to", type=Path, metavar="DIR", help="the folder to make; default export/FORMAT in the run")
    parser.add_argument(
        "--format",
        metavar="FORMAT",
        help="transformers, timm, safetensors (with our own config) or onnx; default that of the network's own library, "
        "else safetensors",
    )
    parser.add_argument(
        "--heads",
        choices=["new", "both"],
        help="both keeps the pretrained output layer beside the new one; default both if the run measured retention",
    )
    parser.add_argument(
        "--merge-adapters",
        action="store_true",
        help="leave out adapter/, the adapter alone; the weights include it in any case",
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="with --format onnx, also write model.int8.onnx, with int8 weights, and measure what it loses",
    )
    parser.add_argument(
        "--pixels",
        action="store_true",
        help="with --format onnx, a graph of images takes uint8 pixels of its size, and normalises them itself",
    )
    parser.add_argument(
        "--push", metavar="NAME", help="also upload the folder to the hub, to a repository that is private if it is new"
    )
    return parser


def main(arguments: list[str]) -> int:
    """Runs `export`. Returns 0, or raises UserError."""
    given = make_parser().parse_args(arguments)
    from sft_lightning.cli.quiet import quieten
    from sft_lightning.export import export_run
    from sft_lightning.export.parity import lines
    from sft_lightning.export.push import check_push, push

    quieten()
    if given.push is not None:
        check_push(given.push)
    made = export_run(given.run, given.to, given.format, given.heads, given.merge_adapters, given.int8, given.pixels)
    heads = "both heads" if len(made.heads) > 1 else "the new head"
    print(f"export  {made.folder} ({made.format}, {heads}, {made.bytes / 1e6:.1f} MB)")
    for line in lines(made.parity):
        print(f"parity  {line}")
    if given.push is not None:
        print(f"push    {push(made.folder, given.push)}")
    return 0
