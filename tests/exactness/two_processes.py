"""Trains and measures on two gloo processes.

`both` takes the name of a JSON list of lists, each a function of DO with its arguments; job n of rank r is left in OUT/n-r.pt.
"""

import json
import logging
import os
import socket
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from tests.survival.zygote import Zygote

Job = tuple[Any, ...]


def _train(root: Path, case: str, variant: str, kind: str, accumulate: int, strategy: str = "ddp") -> Any:
    from tests.exactness.training import train

    run = train(case, variant, root, kind, accumulate, strategy=strategy, devices=2)
    if strategy == "fsdp2":
        check_parts(run.module)
    return [vars(step) for step in run.steps]


def check_parts(module: Any) -> None:
    """Each rank must hold half of student and teacher, but for rows that do not divide by two."""
    for what, network in (("student", module.network), ("teacher", module.teacher.network)):
        for name, parameter in network.named_parameters():
            assert hasattr(parameter, "to_local"), f"{name} of the {what} is not sharded"
            rows, mine = len(parameter), len(parameter.to_local())
            assert mine <= -(-rows // 2), f"this rank holds {mine} of {rows} rows of {name} of the {what}"


def _measure(root: Path, case: str, rows: int, how: str, strategy: str = "ddp") -> Any:
    from tests.exactness.measuring import measure

    return measure(case, rows, root, how, strategy=strategy, devices=2)


def _limited(root: Path, case: str, how: str, limit: float, strategy: str = "ddp") -> Any:
    from tests.exactness.measuring import limited

    return limited(case, root, how, limit, strategy=strategy, devices=2)


def _sharding(job: str) -> Callable[..., Any]:
    """One of tests/sharding/jobs.py, which is imported once there is work."""

    def do(*arguments: Any) -> Any:
        from tests.sharding import jobs

        return getattr(jobs, job)(*arguments)

    return do


DO: dict[str, Callable[..., Any]] = {
    "train": _train,
    "measure": _measure,
    "limited": _limited,
    **{job: _sharding(job) for job in ("norms", "mixed", "stages", "saved", "family")},
}


def work(rank: int, port: int, root: str, out: str, jobs: list[list[Any]]) -> None:
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "NODE_RANK": "0"}
    os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank)}
    for number, (name, *arguments) in enumerate(jobs):
        # Groups of its own for each job: those of all jobs together would be a thousand threads that wait for messages.
        store = distributed.FileStore(str(Path(out) / f"{number}.store"), 2)
        distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
        try:
            torch.save(DO[name](Path(root), *arguments), Path(out) / f"{number}-{rank}.pt")
        except Exception as error:
            raise RuntimeError(f"rank {rank}, job {name} {arguments}") from error
        distributed.destroy_process_group()


class Together:
    """What two processes did: the results of a job on both ranks."""

    def __init__(self, root: Path, out: Path, jobs: Sequence[Job], zygote: Zygote) -> None:
        self.out, self.jobs = out, {job: number for number, job in enumerate(jobs)}
        (out / "jobs.json").write_text(json.dumps(list(jobs)))
        pid = zygote.call(f"{__name__}:both", [root, out, out / "jobs.json"], out / "said")
        code = zygote.wait(pid, timeout=1700)
        assert code == 0, f"two processes failed, exit code {code}:\n{(out / 'said').read_text()[-8000:]}"

    def __call__(self, *job: Any) -> list[Any]:
        return [torch.load(self.out / f"{self.jobs[job]}-{rank}.pt", weights_only=True) for rank in (0, 1)]


def both(root: str, out: str, jobs: str) -> None:
    """All jobs, on two processes."""
    import tests.exactness.measuring
    import tests.exactness.training  # noqa: F401  before the fork, so that it is paid once

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    todo = json.loads(Path(jobs).read_text())
    torch.multiprocessing.start_processes(work, (port, root, out, todo), nprocs=2, start_method="fork")
