"""Makes `trainer.profiler` write its report into the run directory."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler

from sft_lightning.core.errors import UserError

NAME = "profile"
BY_NAME: dict[str, type[Profiler]] = {
    "simple": SimpleProfiler,
    "advanced": AdvancedProfiler,
    "pytorch": PyTorchProfiler,
}


def written_to(given: Any, folder: Path) -> Any:
    """Returns the profiler that a config names, set to write `fit-profile.txt` and the like into `folder`.

    Without a file, Lightning prints the report as a notice, which is not shown. A file that the user set is kept.

    Args:
        given: `trainer.profiler`, a name or a profiler.
        folder: The run directory.
    """
    if isinstance(given, str):
        made = BY_NAME.get(given)
        if given == "xla" and find_spec("torch_xla") is None:
            raise UserError(
                "trainer.profiler", "xla needs torch_xla, which is not installed", "use simple, advanced or pytorch"
            )
        return given if made is None else made(dirpath=str(folder), filename=NAME)
    if isinstance(given, Profiler) and not (given.dirpath and given.filename):
        given.dirpath, given.filename = given.dirpath or str(folder), given.filename or NAME
    return given


def reports(profiler: Any) -> list[Path]:
    """Returns the files that a profiler wrote."""
    folder, name = getattr(profiler, "dirpath", None), getattr(profiler, "filename", None)
    return sorted(Path(folder).glob(f"*{name}*.txt")) if folder and name else []
