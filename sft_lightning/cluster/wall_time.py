"""Reads and writes wall times in Slurm's format."""

import re

from sft_lightning.core.errors import UserError

FORMS = (
    r"(?:(?P<d>\d+)-(?P<dh>\d+)(?::(?P<dm>\d+))?(?::(?P<ds>\d+))?|(?:(?P<h>\d+):)?(?P<m>\d+):(?P<s>\d+)|(?P<only>\d+))"
)


def parse_time(text: str, where: str = "--time") -> int:
    """Returns the seconds of `30` (minutes), `30:00`, `4:00:00`, `2-00` or `2-12:30`, as sbatch reads them."""
    found = re.fullmatch(FORMS, text.strip())
    if found is None:
        raise UserError(where, f"'{text}' is not a wall time of Slurm", "write 04:00:00, 2-00:00:00 or 30 (minutes)")
    part = {k: int(v) for k, v in found.groupdict().items() if v is not None}
    days = part.get("d", 0) * 86400 + part.get("dh", 0) * 3600 + part.get("dm", 0) * 60 + part.get("ds", 0)
    seconds = days + part.get("h", 0) * 3600 + part.get("m", 0) * 60 + part.get("s", 0) + part.get("only", 0) * 60
    if seconds == 0:
        raise UserError(where, f"must be more than 0, got '{text}'", "write a time such as 04:00:00")
    return seconds


def written(seconds: int) -> str:
    """Writes seconds as `04:00:00` or `2-00:00:00`."""
    days, rest = divmod(seconds, 86400)
    clock = f"{rest // 3600:02}:{rest % 3600 // 60:02}:{rest % 60:02}"
    return f"{days}-{clock}" if days else clock
