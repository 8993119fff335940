"""`ablate`: runs a study from a file, or from a network and data alone, on this machine or as a Slurm job array."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sft_lightning.ablation.study import make_study, read_study
from sft_lightning.cli.main import main as command_line
from sft_lightning.cli.parser import Parser
from sft_lightning.core import plain_yaml
from sft_lightning.core.errors import UserError

if TYPE_CHECKING:
    from sft_lightning.ablation.budgeted_study import Sized

MOST_SEEDS = 20  # in a study with a budget


def make_parser() -> Parser:
    """Builds the parser of `ablate`."""
    parser = Parser(
        "ablate",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Compare ways of fine-tuning: every arm over seeds, settings chosen on validation, test touched once.\n"
        "  ablate --config STUDY.yaml\n"
        "  ablate --network NAME_OR_FOLDER --data FILE_OR_FOLDER [--budget 1h]",
    )
    parser.add_argument("--config", type=Path, help="The study file; see docs/ablations.md.")
    group = parser.add_argument_group("without a study file")
    group.add_argument("--network", help="What to tune: hub name, folder, run, timm or torchvision name.")
    group.add_argument(
        "--data",
        help="What to learn: table (CSV, TSV, JSONL, parquet), tagged words, plain or parallel texts, images, images "
        "with masks or boxes, sounds.",
    )
    group.add_argument("--retention", help="Data of the source task, to measure what the network keeps.")
    group.add_argument(
        "--extend",
        action="store_true",
        help="Add the data's labels to the network's own, in one output layer; --retention has samples of the old ones.",
    )
    group.add_argument(
        "--budget",
        help="Wall time, such as 1h or 90m: sets the seeds, at least 3; without a study file also the grids' size.",
    )
    for name, text in (
        ("text_column", "Column of texts, or of lists of words; two with a comma are a pair."),
        (
            "label_column",
            "Column of labels, or of lists of tags; several columns of numbers or of 0 and 1 with commas.",
        ),
        ("image_column", "Column of image files."),
        (
            "task",
            "What is predicted, such as classification or token_classification; default what the data looks like.",
        ),
    ):
        group.add_argument(f"--{name}", f"--{name.replace('_', '-')}", help=text)
    group = parser.add_argument_group("how")
    group.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="Change the base experiment.")
    group.add_argument("--seeds", type=int, help="Number of seeds, in place of the file's.")
    group.add_argument(
        "--launcher", choices=["local", "slurm"], default="local", help="Where points run: here, or a job array."
    )
    group.add_argument(
        "--sbatch", action="append", default=[], metavar="OPTION", help="Option for sbatch: --sbatch=--time=01:00:00."
    )
    group.add_argument("--profile", help="The cluster's profile, as for submit; see docs/clusters.md.")
    group.add_argument("--partition", help="Partition, for sbatch.")
    group.add_argument("--time", help="Wall time of each task of the array; then it is saved and requeued.")
    group.add_argument("--workers", type=int, help="Points that run side by side; default one per GPU, else per core.")
    group.add_argument("--threads", type=int, help="CPU threads of each point; default the cores over the workers.")
    group.add_argument("--dry-run", "--dry_run", action="store_true", help="Print the points and what they would cost.")
    group.add_argument(
        "--keep_weights",
        "--keep-weights",
        choices=["all", "chosen"],
        default="all",
        help="Which points keep checkpoints and exports: all, or only those of each arm's chosen setting.",
    )
    group.add_argument("--retry", action="store_true", help="Retry failed points.")
    group.add_argument("--runs_dir", "--runs-dir", help="Root of run directories; default SFT_RUNS_DIR, else runs.")
    group.add_argument("--wandb", choices=["online", "offline", "disabled"], help="Where W&B records of points go.")
    group.add_argument("--html", type=Path, help="The comparison's page; default report.html in the study's folder.")
    group.add_argument(
        "--import", dest="imports", action="append", default=[], metavar="MODULE", help=argparse.SUPPRESS
    )
    group.add_argument("--quiet", action="store_true", help="Print only the answer.")
    parser.add_argument("--study_folder", type=Path, help=argparse.SUPPRESS)  # set for each task of the array
    parser.add_argument("--point", help=argparse.SUPPRESS)
    return parser


def main(arguments: list[str]) -> int:
    """Runs `ablate`. Returns 0, or 2 if points failed. Raises UserError for bad input."""
    given = make_parser().parse_args(arguments)
    if given.seeds is not None and given.budget is not None:
        raise UserError(
            "--seeds", "cannot be combined with --budget, which sets the number of seeds", "give only one of them"
        )
    for name, least in (("seeds", 1), ("workers", 1), ("threads", 1)):
        value = getattr(given, name)
        if value is not None and value < least:
            raise UserError(f"--{name}", f"must be at least {least}, got {value}")
    if given.point is not None and given.study_folder is not None:
        from sft_lightning.ablation.executor_slurm import run_point

        return run_point(given.study_folder, given.point, command_line)
    if given.launcher == "slurm" and given.budget is not None:
        raise UserError(
            "--budget",
            "cannot be used with --launcher slurm, whose points are planned in advance",
            "give --seeds instead",
        )
    budget_s = None
    if given.budget is not None:
        from sft_lightning.ablation.budget import parse_budget

        budget_s = parse_budget(given.budget)
    return run_study(find_study(given, budget_s), given, budget_s)


def find_study(given: argparse.Namespace, budget_s: float | None) -> "list[Sized]":
    """Reads the study that the options name, or makes one for a network and data, with smaller ones for a budget."""
    from sft_lightning.ablation.budgeted_study import Sized

    if given.config is not None:
        for name in ("network", "data", "retention", "text_column", "label_column", "image_column", "task", "extend"):
            if getattr(given, name) not in (None, False):
                raise UserError(
                    f"--{name}",
                    "cannot be combined with --config",
                    "write it into the study file, or leave --config out",
                )
        study = read_study(given.config)
        if given.seeds is None and budget_s is None and not given.set:
            return [Sized(study)]
        seeds = study.content.get("seeds", 3)
        if budget_s and isinstance(seeds, int):
            seeds = max(seeds, MOST_SEEDS)
        content = with_options(study.content, given, seeds)
        return [Sized(make_study(content, given.config.parent, given.config.stem))]
    if given.network is None or given.data is None:
        raise UserError("ablate", "no study is given", "add --config STUDY.yaml, or --network and --data")
    from sft_lightning.autoconfig.default_study import infer_study
    from sft_lightning.autoconfig.reduced_studies import sizes
    from sft_lightning.autoconfig.without_effect import check_effect
    from sft_lightning.config.overrides import nested

    named = {n: getattr(given, n) for n in ("text_column", "label_column", "image_column", "task")}
    said = [o.partition("=")[2] for o in given.set if o.startswith("trainer.accelerator=")]
    changed = nested(settings(given), "--set")
    for block in ("data", "retention"):
        if "class_path" in (changed.get(block) or {}):
            fix = "leave it out, or write a study file"
            raise UserError(f"{block}.class_path", f"cannot be set, because it is inferred from --{block}", fix)
    read, of_source = ((changed.get(block) or {}).get("init_args") or {} for block in ("data", "retention"))
    found = infer_study(
        given.network,
        given.data,
        given.retention,
        accelerator=(said or ["auto"])[-1],
        settings=read,
        of_retention=of_source,
        of_trainer=changed.get("trainer"),
        extend=given.extend,
        **named,
    )
    check_effect(settings(given), found.study["arms"])
    if not given.quiet:
        print("\n".join(found.lines), flush=True)
    content = with_options(found.study, given, MOST_SEEDS if budget_s else found.study.get("seeds", 3))
    if given.extend and "set" in content:
        from sft_lightning.autoconfig.extended_study import in_parts

        content["set"] = in_parts(content["set"])
    every = sizes(content, found.steps, found.tokens)[: None if budget_s else 1]
    return [Sized(make_study(size.content, Path.cwd(), "study"), size.left_out, size.tokens) for size in every]


def with_options(content: dict[str, Any], given: argparse.Namespace, seeds: Any) -> dict[str, Any]:
    """Returns the study's content with the changes that the command line makes."""
    changed = {**(content.get("set") or {}), **settings(given)}
    result = {**content, "seeds": given.seeds or seeds, **({"set": changed} if changed else {})}
    if given.seeds and isinstance(content.get("report_seeds"), int):
        result["report_seeds"] = given.seeds
    if given.seeds and isinstance(content.get("tune_seeds"), int):
        result["tune_seeds"] = min(content["tune_seeds"], given.seeds)
    return result


def settings(given: argparse.Namespace) -> dict[str, Any]:
    """The values of `--set KEY=VALUE`."""
    found: dict[str, Any] = {}
    for option in given.set:
        key, is_given, text = option.partition("=")
        if not is_given or not key:
            raise UserError("--set", f"must be KEY=VALUE, got '{option}'", "write it as in data.batch_size=32")
        try:
            found[key] = None if text == "None" else plain_yaml.load(text)
        except plain_yaml.DoubledKey as error:
            raise UserError("--set", f"{key}: {error.said}", error.fix) from None
        except yaml.YAMLError:
            raise UserError("--set", f"the value of '{option}' is not valid YAML", "quote it") from None
        if not found[key] and text[:1] in ("#", "|", ">"):  # a comment, or the mark of a text on the next lines
            raise UserError("--set", f"the value of '{option}' is {found[key]!r} in YAML", f"quote it: '\"{text}\"'")
    return found


def run_study(sizes: "list[Sized]", given: argparse.Namespace, budget_s: float | None) -> int:
    """Plans and runs a study, collects its results and prints the answer."""
    from sft_lightning.ablation.budgeted_study import Budget
    from sft_lightning.ablation.plan import Plan
    from sft_lightning.ablation.scheduler import Scheduler
    from sft_lightning.ablation.study_dir import StudyDir
    from sft_lightning.cli.quiet import quieten
    from sft_lightning.config.resolve import resolve

    quieten()
    study = sizes[0].study
    import_user_modules(given.imports)
    root = given.runs_dir or os.environ.get("SFT_RUNS_DIR") or "runs"
    folder = StudyDir.at(root, study.name)
    plan = Plan(study, resolve, {} if given.wandb is None else {"wandb": given.wandb})
    scheduler = Scheduler(study, plan, folder)
    if given.config is not None and not folder.path.is_dir():  # without --config, making the study has read the data
        from sft_lightning.ablation.first_look import read_tables

        read_tables(plan.check())
    budget = None
    if budget_s is not None:
        budget = Budget(budget_s, sizes, held(folder, "budget"))
        budget.begin(scheduler)
    if given.dry_run:
        from sft_lightning.ablation.dry_run import show

        scheduler.reads_only = True
        show(scheduler, how_many(scheduler, given)[0], budget is not None and budget.size is None)
        return 0
    if given.launcher == "slurm":
        return submit(scheduler, given)
    return conduct(scheduler, given, budget)


def submit(scheduler: Any, given: argparse.Namespace) -> int:
    """Submits the points as a Slurm job array."""
    from sft_lightning.ablation import collect, executor_slurm
    from sft_lightning.cluster.profile import read_profile
    from sft_lightning.runs.lock import RunLock

    scheduler.plan.check()
    scheduler.folder.make()
    lock = RunLock(scheduler.folder.path, "study")
    lock.take()
    try:
        if given.retry:
            scheduler.retry()
        file = scheduler.folder.path / "study.yaml"
        collect.write_file(scheduler)
        kept = ["--config", str(file), "--runs_dir", str(scheduler.folder.path.parent)]
        for name in ("threads", "wandb", "html", "keep_weights"):
            if getattr(given, name) is not None:
                kept += [f"--{name}", str(getattr(given, name))]
        for module in given.imports:
            kept += ["--import", module]
        choices = {"partition": given.partition, "time": given.time}
        print(
            executor_slurm.submit(
                scheduler, kept, read_profile(given.profile), choices, given.sbatch, given.workers or 50, given.threads
            )
        )
    finally:
        lock.release()
    return 0


def held(folder: Any, key: str) -> Any:
    """Returns the entry that an earlier start of the study left in study.json, or None."""
    try:
        return json.loads(folder.record.read_text()).get(key)
    except (OSError, ValueError, AttributeError):
        return None


def import_user_modules(names: list[str]) -> None:
    """Imports the user's modules, so that configs can name their classes."""
    from importlib import import_module

    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    for name in names:
        try:
            import_module(name)
        except ImportError as error:
            raise UserError("--import", f"{name} cannot be imported: {error}") from None


def how_many(scheduler: Any, given: argparse.Namespace) -> tuple[int, int, list[str], bool]:
    """Returns (workers, threads of each, GPUs, whether each point runs as a command of its own)."""
    from sft_lightning.ablation.worker import of_several

    trainers = [config["trainer"] for config in scheduler.plan.check()]
    several = any(map(of_several, trainers))
    gpus = [] if all(t["accelerator"] == "cpu" for t in trainers) else visible_gpus()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    default = 1 if several else len(gpus) or cores
    workers = given.workers or default
    threads = given.threads or held(scheduler.folder, "threads") or max(1, cores // workers)
    return workers, int(threads), [] if several else gpus, several


def visible_gpus() -> list[str]:
    """Returns the GPUs' names for CUDA_VISIBLE_DEVICES, without starting CUDA in this process."""
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = torch.cuda.device_count()
    return [g for g in given.split(",") if g][:found] if given else [str(i) for i in range(found)]


def conduct(scheduler: Any, given: argparse.Namespace, budget: Any) -> int:
    """Runs the study with its folder locked."""
    from sft_lightning.ablation import collect
    from sft_lightning.ablation.executor_local import run_local as run
    from sft_lightning.ablation.progress import Progress
    from sft_lightning.ablation.worker_pool import Pool
    from sft_lightning.core.signals import Interrupted
    from sft_lightning.runs.lock import RunLock

    folder = scheduler.folder
    workers, threads, gpus, several = how_many(scheduler, given)
    folder.make()
    lock = RunLock(folder.path, "study")
    lock.take()
    scheduler.width = workers
    about: dict[str, Any] = {"threads": threads, **({} if budget is None else {"budget": budget.record})}
    if given.retry:
        scheduler.retry()
    collect.write_file(scheduler)
    pool = Pool(folder, workers, threads, gpus, command_line, several)
    progress = Progress(scheduler, workers, given.quiet)
    try:
        status = run(scheduler, pool, progress, budget, about, given.keep_weights == "chosen")
    except Interrupted as stop:
        collect.write(scheduler, "interrupted", about)
        print(f"interrupted: run the same command to resume; {folder.path}", file=sys.stderr)
        return stop.exit_code
    finally:
        pool.close()
        lock.release()
    found = collect.write(scheduler, status, about)
    return finish(scheduler, found, given)


def finish(scheduler: Any, found: dict[str, Any], given: argparse.Namespace) -> int:
    """Prints the answer and writes the page. Returns 0, or 2 if points failed."""
    from sft_lightning.ablation.disk_usage import hint
    from sft_lightning.cli import compare as report

    folder = scheduler.folder
    for failure in found["failures"]:
        print(f"failed {failure['label']}: {failure['reason']} ({folder.path / failure['log']})", file=sys.stderr)
    page = given.html or folder.report
    if given.quiet:
        print("\n".join(found["answer"]))
    else:
        report.main([str(folder.path), "--html", str(page)])
        print(f"study   {folder.path}")
        if (line := hint(scheduler)) is not None:
            print(line)
    if found["failures"]:
        print(
            f"sft-lightning: error: {len(found['failures'])} points failed; --retry tries them again", file=sys.stderr
        )
        return 2
    return 0
