"""`path`: measures a run's network between its pretrained and its tuned weights, and writes a point as a run."""

import sys
from pathlib import Path
from typing import Any

from sft_lightning.after.asked import BATCHNORM, HOW, Asked, alphas_of, margin_of
from sft_lightning.cli.parser import Parser
from sft_lightning.core.errors import UserError, escape_controls


def make_parser() -> Parser:
    """Builds the parser of `path`."""
    parser = Parser(
        "path",
        description="Measure a finished run's network on validation along the way from its pretrained weights w0 to its tuned "
        "weights w, with the new head as tuned. It needs no training, and choosing a point is the cheapest way to keep more.",
    )
    parser.add_argument("run", metavar="RUN", help="the run's directory")
    parser.add_argument(
        "--how",
        choices=HOW,
        default=HOW[0],
        help="wise-ft (default): w0 + alpha (w - w0). lines: block l of L keeps alpha + (1 - alpha)(l - 1)/(L - 1) of its "
        "change, all else alpha",
    )
    parser.add_argument(
        "--alphas",
        metavar="LIST",
        help="points to measure, from 0 to 1, separated by commas; default 0 to 1 in steps of 0.1",
    )
    parser.add_argument(
        "--margin",
        type=float,
        metavar="M",
        help="choose the point that keeps most among those whose target metric is at most M worse than the best, in the "
        "metric's unit; default: choose the point with the best target metric",
    )
    parser.add_argument(
        "--batchnorm",
        choices=BATCHNORM,
        help="running statistics between the ends: estimated again on training samples (default), or interpolated as weights "
        "are",
    )
    parser.add_argument("--by", metavar="METRIC", help="the target's metric; default select_by, else the task's first")
    parser.add_argument(
        "--kept", metavar="METRIC", help="the metric of what is kept; default the source task's first, else agreement"
    )
    parser.add_argument(
        "--write",
        nargs="?",
        const="",
        metavar="NAME",
        help="write the chosen point as a run of the experiment NAME; default name EXPERIMENT-HOW",
    )
    parser.add_argument("--run_id", "--run-id", metavar="ID", help="id of the written run; default the run's own")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write all numbers, one row for each point")
    return parser


def main(arguments: list[str]) -> int:
    """Runs `path`. Returns the exit code, or raises UserError."""
    given = make_parser().parse_args(arguments)
    alphas = alphas_of(None if given.alphas is None else given.alphas.split(","))
    margin = margin_of(given.margin)
    if given.kept is not None and margin is None:
        raise UserError("--kept", "has no effect without --margin", "give a margin, or leave it out")
    if given.run_id is not None and given.write is None:
        raise UserError("--run_id", "has no effect without --write", "add --write, or leave it out")
    for option in ("json", "csv"):
        if (file := getattr(given, option)) is not None and not file.parent.is_dir():
            raise UserError(f"--{option}", f"the folder {file.parent} does not exist", "make it first")
    from sft_lightning.after.written import place_for
    from sft_lightning.cli.carried import carried
    from sft_lightning.cli.fit import existing_run
    from sft_lightning.cli.path_cli import PathCLI
    from sft_lightning.cli.quiet import quieten
    from sft_lightning.config.files import allow_on_as_key
    from sft_lightning.runs.load import load
    from sft_lightning.runs.record import command_line
    from sft_lightning.runs.session import RunSession
    from sft_lightning.runs.status import is_finished

    quieten()
    allow_on_as_key()
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # for the user's own modules
    status = load(given.run).status
    if not is_finished(status):
        raise UserError(given.run, f"is not finished, its status is {status}", "finish it first")
    run = existing_run(given.run, "run")
    target = None
    if given.write is not None:
        target = place_for(run, given.write or f"{run.experiment}-{given.how}", given.run_id)
    asked = Asked(given.how, alphas, margin, given.batchnorm, given.by, given.kept)
    checkpoint = run.best if run.best.is_file() else run.last
    one = ["--trainer.devices", "1", "--trainer.num_nodes", "1", "--trainer.strategy", "auto"]
    rest = ["--config", str(run.config), "--ckpt_path", str(checkpoint), *one]
    session = RunSession(command_line(["path", *arguments]), None, run)

    return carried(session, "validate", rest, lambda: measure(PathCLI(rest, session, asked), checkpoint, target, given))


def measure(cli: Any, checkpoint: Path, target: Any, given: Any) -> None:
    """Measures, prints, and writes what was asked for.

    Args:
        cli: A `PathCLI`.
        checkpoint: The tuned network's.
        target: Directory of the run to write, or None.
        given: The command's options.
    """
    from sft_lightning.after import path
    from sft_lightning.after.ways import said_blocks
    from sft_lightning.after.written import write_run
    from sft_lightning.runs.directory import write_atomic

    walk, asked, parts = cli.walk, cli.walk.asked, (cli.trainer, cli.model, cli.datamodule)
    points = walk.measure(*parts, checkpoint)
    rule = path.rule_of(cli.model, walk.monitor, cli.settings.get("select_by"), asked, points[0])
    chosen = rule.choose(points)
    held = path.content(points, rule, chosen, walk, given.run)
    print(f"path    {escape_controls(given.run)}, {asked.how}, measured on validation")
    print(f"n       {', '.join(f'{name} {count:,}' for name, count in held['n'].items())}")
    if asked.how == "lines":
        print(f"blocks  {said_blocks(cli.model.network)}")
    if walk.samples is not None:
        print(f"norms   BatchNorm's statistics between the ends are estimated on {walk.samples:,} training samples")
    print("\n".join(path.table(points, rule, chosen)))
    if chosen is None:
        raise UserError("path", f"{rule.learned.name} is not a number at any point", "measure another run")
    print(f"chosen  alpha {chosen.alpha:g}: {rule.words}")
    for option, text in (("json", path.to_json(held)), ("csv", path.to_csv(points))):
        if (file := getattr(given, option)) is not None:
            write_atomic(file, text)
    if target is not None:
        walk.place(*parts, chosen.alpha)
        how = {name: held[name] for name in ("how", "rule", "batchnorm_samples", "points")} | {"alpha": chosen.alpha}
        run, command = cli.session.of_run, cli.session.command
        made = write_run(cli.model, run, target, chosen.values, chosen.counts, rule.learned.name, command, how)
        print(f"run     {made.path}")
        print(f"next    sft-lightning test --run {made.path}")
