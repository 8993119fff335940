"""`predict MODEL`: answers a user's own samples with the model of a run, an export, or a hub."""

import os
import sys
from pathlib import Path
from typing import Any

from sft_lightning.cli.parser import Parser
from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural

TAKE = {"text_column": ("text", "words", "pairs", "tokens"), "pair_column": ("text",)}
"""Kinds of input that have such a column"""


def make_parser() -> Parser:
    """Builds the parser of `predict MODEL`."""
    parser = Parser(
        "predict",
        description="Answer the samples of a file, a folder, a table or standard input with the model of a finished run, an "
        "export or a hub. Writes one JSON object or row of CSV for each, in their order. Samples that cannot be read have an "
        "error in their place, and are counted. A command that was stopped resumes where it ended. predict --run and predict "
        "--config answer the run's own test or predict split; see predict --help.",
    )
    parser.add_argument("model", metavar="MODEL", help="a finished run's directory, an export, or a hub's name")
    parser.add_argument(
        "--input",
        default="-",
        metavar="PLACE",
        help="a table (.csv, .tsv, .json, .jsonl, .parquet), a .txt file with a text in each line, a folder of images or "
        "sounds, one of them, or - for the lines of standard input: texts, JSON objects, or names of files; default -",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="a file that ends with .jsonl or .csv; default standard output. Masks are written to a folder beside it",
    )
    parser.add_argument(
        "--head", choices=["new", "source", "both"], default="new", help="the new head, the pretrained one, or both"
    )
    parser.add_argument("--text_column", metavar="NAME", help="column with the texts; default that of the run's data")
    parser.add_argument(
        "--pair_column", metavar="NAME", help="column with second texts; default that of the run's data"
    )
    parser.add_argument(
        "--precision",
        choices=["32", "bf16"],
        default="32",
        help="numbers to compute with; default 32, single precision",
    )
    return parser


def main(arguments: list[str]) -> int:
    """Runs `predict MODEL`. Returns 0, or raises UserError."""
    given = make_parser().parse_args(arguments)
    from sft_lightning.cli.quiet import quieten
    from sft_lightning.serve.answering import Model
    from sft_lightning.serve.files import read_inputs
    from sft_lightning.serve.loading import find_folder, load_served
    from sft_lightning.serve.predicting import check_apart, check_output, predict

    quieten()
    output = None if given.output is None else given.output.expanduser()
    check_output(output)
    place = find_folder(given.model)
    network, data = load_served(place)
    model = Model(network, data, half=given.precision == "bf16")
    named: dict[str, Any] = {
        n: getattr(given, n) for n in ("text_column", "pair_column") if getattr(given, n) is not None
    }
    for name in named:
        if model.reader.kind not in TAKE[name]:
            raise UserError(f"--{name}", f"has no effect on a model that takes {model.reader.kind}", "leave it out")
    if "pair_column" in named:
        if model.reader.pairs is False:  # type: ignore[attr-defined]
            raise UserError("--pair_column", "the model was tuned on single texts", "leave it out")
        model.reader.pairs = True  # type: ignore[attr-defined]
    check_apart(output, given.input, model.reader.kind)
    model.reader.limited = False
    model.warm()
    inputs = read_inputs(given.input, model.reader, {**data, **named, "given": [*named]})
    for note in inputs.notes:
        print(f"predict  note: {note}", file=sys.stderr)
    try:
        counts = predict(model, place, inputs, given.head, output)
    except OSError as error:
        if output is None and isinstance(error, BrokenPipeError):  # what reads standard output has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        why, written = error.strerror or str(error), output or "standard output"
        raise UserError(
            "--output", f"{written} cannot be written: {why}", "make room, then run the command again"
        ) from None
    heads = "both heads" if given.head == "both" else f"the {given.head} head"
    more = f", {counts.unreadable:,} unreadable (the first: {counts.first})" if counts.unreadable else ""
    where = f", in {output}" if output is not None else ""
    print(f"predict  {plural(counts.answered, 'sample')} answered by {heads}{more}{where}", file=sys.stderr)
    return 0
