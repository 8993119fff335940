"""Would the quick tests notice? Small faults put into the code one at a time, and the tests near each of them run.

    python -m benchmarks.mutants draw OLD_TREE NEW_TREE    with cosmic-ray in a virtual environment of its own
    python -m benchmarks.mutants run TREE --name before    with the project's environment

`draw` lets cosmic-ray make every fault of the operators below in the files of FILES, keeps those on lines that both trees have
once, draws a fixed number from each file, and writes them to benchmarks/results/mutants.json: the same list for both trees,
whatever was moved between them. `run` copies the tree, changes one line, runs the tests of NEAR that are not slow
until one fails, and notes 'killed', 'survived' or 'timeout' (a kill, as in cosmic-ray: nothing ends) under the name. Tests
run in processes forked from one that has imported the libraries, but nothing of the project.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from queue import Queue
from typing import Any

RESULTS = Path(__file__).parent / "results" / "mutants.json"
OPERATORS = (
    *("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_Add", "Pow_Mul"),
    *("Eq_NotEq", "NotEq_Eq", "Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Lt_Gt", "Gt_Lt", "Is_IsNot", "IsNot_Is"),
)
NAMED = (
    "AddNot",
    "ReplaceTrueWithFalse",
    "ReplaceFalseWithTrue",
    "ReplaceAndWithOr",
    "ReplaceOrWithAnd",
    "NumberReplacer",
)
NAMED += (
    "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak",
    "ReplaceUnaryOperator_Delete_Not",
    "ZeroIterationForLoop",
)
MODULES = ("tests/anchors", "tests/modules", "tests/exactness/test_gradients.py")
TASKS = ("tests/tasks", "tests/exactness/test_metrics.py", "tests/modules/test_plain.py")
WATCHED = (
    "tests/callbacks/test_retention.py",
    "tests/callbacks/test_measured_on.py",
    "tests/callbacks/test_source_task.py",
)
STATISTICS = ("tests/stats", "tests/ablation/test_statistics*.py")
STUDIES = ("tests/ablation/test_study_file.py", "tests/ablation/test_status.py", "tests/ablation/test_studies.py")
FILES: list[tuple[str, str, int, Sequence[str]]] = [
    ("anchors/function_space.py", "anchors/function_space.py", 3, MODULES),
    ("anchors/weight_space.py", "anchors/weight_space.py", 3, MODULES),
    ("anchors/cka.py", "anchors/cka.py", 3, (*MODULES[:1], *WATCHED)),
    ("modules/base.py", "modules/base.py", 6, MODULES),
    ("modules/distill.py", "modules/distill.py", 4, MODULES),
    ("modules/l2sp.py", "modules/l2sp.py", 4, MODULES),
    ("modules/optim.py", "modules/optim.py", 4, MODULES),
    ("modules/freeze.py", "modules/freeze.py", 3, MODULES),
    ("modules/teacher.py", "modules/teacher.py", 2, MODULES),
    ("modules/solve.py", "modules/solve.py", 3, MODULES[1:2]),
    ("tasks/classification.py", "tasks/classification.py", 2, TASKS),
    ("tasks/causal_lm.py", "tasks/causal_lm.py", 2, TASKS),
    ("tasks/meters.py", "tasks/metrics.py", 3, TASKS),
    ("callbacks/retention.py", "evaluation/retention.py", 4, (*WATCHED, "tests/exactness/test_metrics.py")),
    ("retention/drift.py", "evaluation/drift.py", 3, (*WATCHED, "tests/exactness/test_metrics.py")),
    ("callbacks/selection.py", "evaluation/selection.py", 2, ("tests/callbacks/test_selection.py",)),
    ("data/sampler.py", "data/sampler.py", 6, ("tests/data/test_sampler.py", "tests/exactness/test_gradients.py")),
    ("ablation/choose.py", "ablation/selection.py", 4, STUDIES),
    ("ablation/statistics.py", "stats/cells.py", 3, STATISTICS),
    ("ablation/stats/differences.py", "stats/differences.py", 4, STATISTICS),
    ("ablation/stats/equivalence.py", "stats/equivalence.py", 3, STATISTICS),
    ("ablation/stats/correction.py", "stats/correction.py", 3, STATISTICS),
    (
        "callbacks/position.py",
        "callbacks/loop_position.py",
        3,
        ("tests/modules/test_checkpoint.py", "tests/survival/test_resume.py"),
    ),
]
"""Path before and after the moves, how many mutants, and the tests near; globs name what one of the trees lacks."""
NOT_NEAR = "not two_processes and not sharding and not sharded"
"""Tests that start two processes are left out in both trees: they would take a minute for each mutant."""


# ---- the list ----


def mutations(source: str, path: str) -> Iterator[tuple[str, str, str]]:
    """(operator, line, changed line) for every mutation by cosmic-ray that changes one line."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    wanted = {f"core/{name}" for name in NAMED}
    wanted |= {n for n in operator_names() if n.endswith(OPERATORS) and "Replace" in n}
    before = source.splitlines()
    for name in sorted(wanted):
        for occurrence in count():
            changed = mutate_code(source, get_operator(name)(), occurrence)
            if changed is None:
                break
            after = changed.splitlines()
            differ = [(a, b) for a, b in zip(before, after, strict=False) if a != b]
            if len(before) == len(after) and len(differ) == 1:
                yield name.removeprefix("core/"), *differ[0]


def draw(old: Path, new: Path, seed: int) -> list[dict[str, Any]]:
    """The list: of each file, mutants on different lines that both trees have once each."""
    generator, chosen = random.Random(seed), list[dict[str, Any]]()
    for then, now, number, near in FILES:
        sources = [(tree / "sft_lightning" / path).read_text() for tree, path in ((old, then), (new, now))]
        lines = [[line.strip() for line in source.splitlines()] for source in sources]
        found = []
        for operator, line, changed in mutations(sources[1], now):
            if all(part.count(line.strip()) == 1 for part in lines) and not line.strip().startswith(
                ("def ", "@", "import", "from")
            ):
                found.append((operator, line.strip(), changed.strip()))
        generator.shuffle(found)
        taken: dict[str, dict[str, Any]] = {}
        for operator, line, changed in found:
            place = {"before": then, "after": now, "near": list(near)}
            taken.setdefault(line, {**place, "operator": operator, "line": line, "changed": changed})
        chosen += list(taken.values())[:number]
    generator.shuffle(chosen)  # so that a run that is cut off has tried some of everything
    return chosen


# ---- the runs ----


class Forks:
    """A process that has imported the libraries, and forks one that runs pytest for each request."""

    def __init__(self, copy: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        environment |= {"WANDB_MODE": "offline", "TOKENIZERS_PARALLELISM": "false", "PYTHONDONTWRITEBYTECODE": "1"}
        server = [sys.executable, str(Path(__file__).resolve()), "serve"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(server, cwd=copy, env=environment, text=True, **pipes)  # type: ignore[call-overload]

    def run(self, arguments: list[str], limit: float) -> int | None:
        """Pytest's exit code; None where it took longer than `limit` seconds."""
        self.process.stdin.write(json.dumps([arguments, limit]) + "\n")
        self.process.stdin.flush()
        code = json.loads(self.process.stdout.readline())
        return None if code is None else int(code)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def serve() -> None:
    """Answers the requests of Forks."""
    import datasets  # noqa: F401
    import lightning.pytorch  # noqa: F401
    import pytest
    import scipy.stats  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import timm  # noqa: F401
    import torch
    import torchmetrics  # noqa: F401
    import torchvision  # noqa: F401
    import transformers  # noqa: F401
    from statsmodels.stats import multitest  # noqa: F401

    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    for request in sys.stdin:
        arguments, limit = json.loads(request)
        pid = os.fork()
        if not pid:
            os.setsid()
            for stream in (1, 2):
                os.dup2(os.open("pytest.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            code = 1
            try:
                code = int(pytest.main(arguments))
            finally:
                os._exit(code)
        until = time.monotonic() + limit
        done, status = 0, 0
        while not done and time.monotonic() < until:
            done, status = os.waitpid(pid, os.WNOHANG)
            time.sleep(0.02)
        if not done:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        print(json.dumps(os.waitstatus_to_exitcode(status) if done else None), file=answers)


def copied(tree: Path, place: Path) -> Path:
    """The files of a tree that git has, with its environment."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=tree, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tree / name, place / name)
    (place / ".venv").symlink_to((tree / ".venv").resolve())
    return place


def near_tests(copy: Path, globs: Sequence[str]) -> list[str]:
    found = [str(p.relative_to(copy)) for g in globs for p in sorted(copy.glob(g))]
    return found if found else ["tests"]


def run(tree: Path, mutants: list[dict[str, Any]], name: str, workers: int, limit: float, out: Path) -> None:
    """Adds the outcome of each mutant that has none under `name`."""
    side = "before" if (tree / "sft_lightning" / FILES[12][0]).is_file() else "after"
    idle: Queue[tuple[Path, Forks]] = Queue()
    with tempfile.TemporaryDirectory() as place:
        for number in range(workers):
            copy = copied(tree, Path(place) / str(number))
            idle.put((copy, Forks(copy)))

        def one(mutant: dict[str, Any]) -> None:
            copy, forks = idle.get()
            file = copy / "sft_lightning" / mutant[side]
            source = file.read_text()
            try:
                text = [a for a in source.splitlines() if a.strip() == mutant["line"]]
                assert len(text) == 1, f"{file}: {mutant['line']}"
                file.write_text(source.replace(text[0], text[0].replace(mutant["line"], mutant["changed"])))
                began = time.monotonic()
                near = near_tests(copy, mutant["near"])
                code = forks.run([*near, "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "-k", NOT_NEAR], limit)
                said = {0: "survived", 1: "killed", 2: "killed", None: "timeout"}.get(code, f"exit {code}")
                failed = [
                    a
                    for a in (copy / "pytest.log").read_text(errors="replace").splitlines()
                    if a.startswith(("FAILED", "ERROR"))
                ]
                mutant["outcomes"][name] = found = {
                    "outcome": said,
                    "seconds": round(time.monotonic() - began, 1),
                    "by": [a[:160] for a in failed[:1]],
                }
                print(
                    f"{said:9}{found['seconds']:6.1f} s  {mutant[side]}: {mutant['line']} → {mutant['changed']}",
                    flush=True,
                )
            finally:
                file.write_text(source)
                idle.put((copy, forks))
                write(out, mutants)

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(one, [m for m in mutants if name not in m.setdefault("outcomes", {})]))
        while not idle.empty():
            idle.get()[1].close()


def write(out: Path, mutants: list[dict[str, Any]]) -> None:
    rates = {}
    for name in sorted({name for m in mutants for name in m.get("outcomes", {})}):
        outcomes = [m["outcomes"][name]["outcome"] for m in mutants if name in m.get("outcomes", {})]
        killed = sum(o in ("killed", "timeout") for o in outcomes)
        rates[name] = {"mutants": len(outcomes), "killed": killed, "rate": round(killed / len(outcomes), 3)}
    about = {"tool": "cosmic-ray 8.7.0", "date": time.strftime("%Y-%m-%d", time.gmtime())}
    out.write_text(json.dumps({**about, "rates": rates, "mutants": mutants}, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["draw", "run", "serve"])
    parser.add_argument("trees", nargs="*", type=Path)
    parser.add_argument("--name", default="after", help="under which the outcomes are noted")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for the tests near a mutant")
    parser.add_argument("--seed", type=int, default=12)
    parser.add_argument("--file", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.what == "serve":
        serve()
    elif options.what == "draw":
        write(options.file, draw(*options.trees, options.seed))
    else:
        mutants = json.loads(options.file.read_text())["mutants"]
        run(options.trees[0].resolve(), mutants, options.name, options.workers, options.limit, options.file)


if __name__ == "__main__":
    main()
