"""Names the files of a run and makes its directory, which never reuses an existing one."""

import os
import re
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from sft_lightning.core.errors import UserError


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run."""

    path: Path

    @property
    def run_id(self) -> str:
        return self.path.name

    @property
    def experiment(self) -> str:
        return self.path.parent.name

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def record(self) -> Path:
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        return self.checkpoints / "last.ckpt"

    @property
    def best(self) -> Path:
        return self.checkpoints / "best.ckpt"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def predictions(self) -> Path:
        return self.path / "predictions.jsonl"

    @property
    def details(self) -> Path:
        return self.path / "details.json"

    @property
    def figures(self) -> Path:
        return self.path / "figures"


def make_run_id() -> str:
    """Returns a new id, also used by W&B: UTC time and four random hexadecimal digits."""
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime()) + "-" + secrets.token_hex(2)


def sweep_run_id() -> str | None:
    """Returns the id that a W&B sweep gave to this process's run; None if no agent started the process."""
    return os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None


def experiment_name(arguments: list[str]) -> str:
    """Returns folder and file name of the last --config: digits-distill for experiments/digits/distill.yaml."""
    files = [arguments[i + 1] for i, a in enumerate(arguments[:-1]) if a in ("--config", "-c")]
    files += [a.partition("=")[2] for a in arguments if a.startswith("--config=")]
    if not files:
        return "unnamed"
    path = Path(files[-1]).resolve()
    alone = path.parent.name in ("experiments", "") or path.parent == Path.cwd()
    name = path.stem if alone else f"{path.parent.name}-{path.stem}"
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name)[:64].lstrip("._-") or "unnamed"


def run_path(root: str | Path, experiment: str, run_id: str | None = None) -> Path:
    """Returns `root/experiment/run_id`; raises UserError for an invalid name."""
    for what, name in (("experiment", experiment), ("run_id", run_id)):
        if name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
            raise UserError(
                what, f"must be 1 to 64 letters, digits, '.', '_' or '-' and begin with a letter or digit, got '{name}'"
            )
    return Path(root).expanduser() / experiment / (run_id or make_run_id())


def create_run(root: str | Path, experiment: str, run_id: str | None = None) -> RunDirectory:
    """Makes `root/experiment/run_id`; raises UserError if it exists or cannot be made."""
    path = run_path(root, experiment, run_id)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir()
    except FileExistsError:
        if path.is_dir():
            raise UserError(
                "run_id", f"{path} exists already", f"choose another run_id, or resume it by fit --resume {path}"
            ) from None
        raise UserError("runs_dir", f"{path} cannot be made: a file has this name") from None
    except (PermissionError, NotADirectoryError, OSError) as error:
        raise UserError(
            "runs_dir", f"{path} cannot be made: {error.strerror}", "set --runs_dir or SFT_RUNS_DIR"
        ) from None
    if not os.access(path, os.W_OK):
        raise UserError("runs_dir", f"{path} is not writable", "set --runs_dir or SFT_RUNS_DIR")
    return RunDirectory(path)


def write_atomic(path: Path, text: str | bytes) -> None:
    """Writes a small file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(text if isinstance(text, bytes) else text.encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Removes temporary files that a killed process left half-written. The run must be locked."""
    for path in [*folder.glob(".*.tmp"), *folder.glob("checkpoints/.*.tmp")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
