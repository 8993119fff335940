"""Do two commits give the same numbers? Every shipped experiment and study, run small with the code of each.

    scripts/same-numbers OLD NEW [--only PATTERN] [--out benchmarks/results/same_numbers.json]

Each commit is checked out into a git worktree of its own, and one process runs there, on one thread: every file under
experiments/, made small as that commit's tests/cli/test_experiments.py makes it (digits and coloured digits as shipped),
then every study with one seed and one epoch. Metrics, row counts, the selected step, fingerprints of the data, the
teacher's hash, points.csv and the ids of all points are compared to the bit. Prints each difference; exit code 1 where
there is one. A file that cannot be run at a commit is listed with the reason.
"""

import argparse
import csv
import fnmatch
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WHOLE = ("digits", "coloured_digits")
"""Folders of experiments that take seconds as they are."""
COMPARED = (
    "metrics",
    "test",
    "n",
    "selected",
    "steps",
    "epochs",
    "parameters",
    "teacher_hash",
    "data",
    "retention",
    "layers",
)
SHORT: dict[str, Any] = {"max_epochs": 2, "max_steps": 3, "limit_val_batches": 2, "check_val_every_n_epoch": 1}
ROWS = 480
"""Texts in the table that the TREC study is run on: its largest cell takes 50 of each class."""


# ---- at one commit, in a process of its own ----


@dataclass
class Done:
    """As the tests' `command` returns it."""

    code: int
    out: str
    err: str

    @property
    def run(self) -> Any:
        from sft_lightning.runs import load

        return load(next(line.split()[1] for line in reversed(self.out.splitlines()) if line.startswith("run  ")))


def command(*arguments: object) -> Done:
    """Runs the command line in this process."""
    from sft_lightning import main

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(a) for a in arguments])
    return Done(code, out.getvalue(), err.getvalue())


def numbers_of(path: Path) -> dict[str, Any]:
    """What a run directory says that must not change."""
    record = json.loads((path / "run.json").read_text())
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    logged = [{k: v for k, v in line.items() if k != "time"} for line in lines]
    return {**{k: record.get(k) for k in COMPARED}, "logged": logged}


def without_prefix(overlay: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`key.key: value` of nested mappings, as `ablate --set` takes them; a class's arguments by their short keys."""
    for key, value in overlay.items():
        name = prefix if key == "init_args" else f"{prefix}.{key}".lstrip(".")
        if isinstance(value, dict) and key != "data_files":
            yield from without_prefix(value, name)
        else:
            yield name, value


class Small:
    """Experiments made small, by the tests of the commit that this process runs."""

    def __init__(self, out: Path) -> None:
        import pytest

        from tests.cli import test_experiments as shipped
        from tests.exactness.tokenizers import fixed_words
        from tests.networks import tiny

        tiny.TOKENIZERS |= {"bert": fixed_words, "llama": of_bytes}
        self.out, self.files, self._made, self._patch = out, shipped.FILES, shipped.MADE_SMALL, pytest.MonkeyPatch()

    def overlay(self, file: str, place: Path) -> dict[str, Any]:
        place.mkdir(parents=True, exist_ok=True)
        return dict(self._made[Path(file).parent.name](file, place, self._patch, command))

    def experiment(self, file: str) -> dict[str, Any]:
        """The numbers of one experiment."""
        import yaml

        folder = Path(file).parent.name
        config = self.out / "small.yaml"
        trainer = {"accelerator": "cpu", **({} if folder in WHOLE else SHORT)}
        content = {**self.overlay(file, self.out / "inputs" / file.replace("/", "-")), "trainer": trainer}
        config.write_text(yaml.safe_dump(content))
        done = command("fit", "--config", file, "--config", config, "--wandb", "disabled")
        if done.code:
            raise RuntimeError(last_line(done.err))
        return numbers_of(done.run.path)

    def study(self, file: Path) -> dict[str, Any]:
        """The numbers of one study: ids of all its points, and points.csv of a short run."""
        import yaml

        content = yaml.safe_load(file.read_text())
        base = (file.parent / content["base"]).resolve().relative_to(Path.cwd())
        place = self.out / "inputs" / file.stem
        overlay = self.overlay(str(base), place)
        if base.parent.name == "trec":
            from tests.data.text_files import texts, write_jsonl

            write_jsonl(place / "trec/train.jsonl", [{"text": t, "label": i % 6} for i, t in enumerate(texts(ROWS))])
        short = ["trainer.max_epochs=1", "trainer.check_val_every_n_epoch=1", "trainer.accelerator=cpu"]
        short += [f"{k}={json.dumps(v)}" for k, v in without_prefix(overlay)]
        more = [a for setting in short for a in ("--set", setting)]
        where = ["--runs_dir", self.out / "studies", "--workers", 1, "--threads", 1, "--wandb", "disabled"]
        done = command("ablate", "--config", file, *where, *more, "--seeds", 1, "--quiet")
        found: dict[str, Any] = {"ids": addresses(file)}
        if done.code:
            raise RuntimeError(last_line(done.err), found)
        with (self.out / "studies" / content["study"] / "points.csv").open() as text:
            rows = list(csv.DictReader(text))
        timed = ("seconds", "fit_s", "retention_s", "target_before_s", "wall")
        return {**found, "points": [{k: v for k, v in row.items() if not k.endswith(timed)} for row in rows]}


def of_bytes() -> Any:
    """A tokenizer whose tokens are bytes: training one breaks ties in another way in each process."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def addresses(file: Path) -> list[str]:
    """The id of every point of a study as it is shipped: arms, cells, settings, seeds."""
    try:
        from sft_lightning.config.resolve import resolve
    except ImportError:  # as it was before core and config had folders
        from sft_lightning.ablation.resolve import Resolver  # type: ignore[import-not-found]

        resolve = Resolver()
    from sft_lightning.ablation.plan import Plan
    from sft_lightning.ablation.study import read_study

    study = read_study(file)
    plan = Plan(study, resolve)
    seeds = list(range(study.seeds)) if isinstance(study.seeds, int) else list(study.seeds)
    return sorted(p.id for cell in study.cells for arm in study.arms for p in plan.tuning(arm, cell, seeds))


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]


def work(out: Path, only: str) -> None:
    """Runs everything with the code of the current directory, and writes OUT/numbers.json."""
    import torch

    torch.set_num_threads(1)
    os.environ |= {"SFT_RUNS_DIR": str(out / "runs"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    small, found = Small(out), dict[str, Any]()
    studies = sorted(str(p) for p in Path("experiments/ablations").glob("*.yaml"))
    for file in [*small.files, *studies]:
        if not fnmatch.fnmatch(file, f"*{only}*"):
            continue
        began = time.monotonic()
        run: Callable[[], dict[str, Any]]
        run = (lambda f=file: small.study(Path(f))) if file in studies else (lambda f=file: small.experiment(f))  # type: ignore[misc]
        try:
            found[file] = run()
        except Exception as error:
            found[file] = {"not run": str(error.args[0] if error.args else error), **dict(*error.args[1:2])}
        print(f"{file}: {time.monotonic() - began:.1f} s {found[file].get('not run', '')}", file=sys.stderr, flush=True)
        (out / "numbers.json").write_text(json.dumps(found))


# ---- both commits ----


@contextmanager
def checked_out(commit: str, place: Path) -> Iterator[Path]:
    """A worktree of the commit."""
    subprocess.run(["git", "worktree", "add", "--detach", "--quiet", str(place), commit], cwd=ROOT, check=True)
    try:
        yield place
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(place)], cwd=ROOT, check=True)


def numbers_at(commit: str, place: Path, only: str) -> dict[str, Any]:
    """What `work` finds at a commit. Both are run at one path, which records and point ids hold."""
    out = place / "out"
    out.mkdir()
    with checked_out(commit, place / "code") as tree:
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        worker = [sys.executable, str(Path(__file__).resolve()), "--worker", str(out), "--only", only]
        subprocess.run(worker, cwd=tree, env=environment, check=True)
    found = dict(json.loads((out / "numbers.json").read_text()))
    shutil.rmtree(out)
    return found


def differences(one: Any, other: Any, where: str = "") -> Iterator[str]:
    """Each place where two values differ, with both values; NaN equals NaN."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            yield from differences(one.get(key, "absent"), other.get(key, "absent"), f"{where} {key}".strip())
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{where}[{number}]")
    elif one != other and not (one != one and other != other):
        yield f"{where}: {short(one)} → {short(other)}"


def short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def main() -> int:
    """The command; 0 where everything that was run at both commits is the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commits", nargs="*", metavar="COMMIT", help="the old and the new one")
    parser.add_argument("--only", default="", metavar="PATTERN", help="part of the paths of the files to run")
    parser.add_argument("--out", type=Path, help="a JSON file for the result")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        work(options.worker, options.only)
        return 0
    if len(options.commits) != 2:
        parser.error("name two commits")
    with tempfile.TemporaryDirectory() as place:
        old, new = (numbers_at(commit, Path(place), options.only) for commit in options.commits)
    result: dict[str, Any] = {
        "same": [],
        "different": {},
        "not run": {},
        "at one commit alone": sorted(old.keys() ^ new.keys()),
    }
    for file in sorted(old.keys() & new.keys()):
        found = list(differences(old[file], new[file]))
        reasons = [numbers["not run"] for numbers in (old[file], new[file]) if "not run" in numbers]
        if found:
            result["different"][file] = found
        elif reasons:
            result["not run"][file] = reasons[0]
        else:
            result["same"].append(file)
    for file, found in result["different"].items():
        print(f"{file}: {len(found)} differences", *found[:12], sep="\n  ")
    for file, reason in result["not run"].items():
        print(f"{file}: not run: {reason}")
    print(f"{len(result['same'])} the same, {len(result['different'])} different, {len(result['not run'])} not run")
    if options.out is not None:
        about = {"date": time.strftime("%Y-%m-%d", time.gmtime()), "commits": options.commits}
        options.out.write_text(json.dumps({**about, **result}, indent=1) + "\n")
    return 1 if result["different"] else 0


if __name__ == "__main__":
    sys.exit(main())
