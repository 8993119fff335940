"""Finds the file of a split in a local copy of a data set."""

from pathlib import Path

from sft_lightning.core.errors import UserError
from sft_lightning.data.text.files import FORMATS, Table, read_table


def split_file(root: str | Path, split: str) -> Path | None:
    """The file of a split in a local copy: `train.jsonl`, or parquet as the hub lays it out, also one folder down."""
    root = Path(root).expanduser()
    if not root.is_dir():
        raise UserError("data.root", f"{root} is not a folder", "set it to an existing folder")
    for suffix in FORMATS:
        if (path := root / f"{split}{suffix}").is_file():
            return path
    patterns = (f"{split}-*.parquet", f"*/{split}-*.parquet", f"{split}/*.parquet", f"*/{split}/*.parquet")
    found = next((files for p in patterns if (files := sorted(root.glob(p)))), [])
    if len(found) > 1:
        raise UserError("data.root", f"{root} has {len(found)} files for {split}, first {found[0].name}", "keep one")
    return found[0] if found else None


def root_table(root: str | Path, split: str, skip: bool = False) -> Table:
    """A split of a local copy."""
    path = split_file(root, split)
    if path is None:
        here = sorted(p.name for p in Path(root).expanduser().iterdir())
        raise UserError(
            "data.root",
            f"{root} has no {split} split, only {', '.join(here[:8]) or 'nothing'}",
            f"add {split}.jsonl or {split}-00000-of-00001.parquet",
        )
    return read_table(path, skip=skip)
