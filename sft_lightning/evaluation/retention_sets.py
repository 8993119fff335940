"""Further sets on which the source task is measured, each with a name and columns of its own."""

import re
from collections.abc import Mapping
from typing import Any

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.structures import Batch
from sft_lightning.core.wording import listed
from sft_lightning.data.base import DATA_MODULES, SFTDataModule, Split
from sft_lightning.data.text.typos import typos
from sft_lightning.data.vision.corruptions import CORRUPTIONS, corrupt
from sft_lightning.evaluation.source_data import SourceData, at_retention
from sft_lightning.networks.base import Network

KEY = "retention_sets"
ITSELF = "retention"
"""In place of a set, the one that `retention` is"""
NAME = r"[A-Za-z][A-Za-z0-9_-]{0,31}"
TYPOS = "typos"
"""The corruption of texts"""
HOW = (*CORRUPTIONS, TYPOS)
SEVERITIES = (1, 2, 3, 4, 5)
SEVERITY = 3


class CorruptedSource(SourceData):
    """Source data whose images are corrupted, the same way in each run.

    Args:
        data: The data module, which another set may share.
        place: The key that the set stands under.
        how: A name of CORRUPTIONS.
        severity: From 1 to 5.
    """

    def __init__(self, data: SFTDataModule, place: str, how: str, severity: int) -> None:
        super().__init__(data, place)
        self.how, self.severity = how, severity

    def receive(self, batch: Batch) -> Batch:
        """Corrupts a batch's images on the device, and finishes it."""
        with at_retention(self.place):
            image = batch["x"].get("image")
            if image is None:
                raise UserError("data", "has no images to corrupt", "leave the corruption out")
            batch["x"]["image"] = corrupt(image, self.how, self.severity, batch["rows"])
        return super().receive(batch)


class MistypedSource(SourceData):
    """Source data with typing errors in the texts that are measured, the same in each run.

    Args:
        data: A data module of its own, not set up yet.
        place: The key that the set stands under.
        severity: From 1 to 5.
    """

    def __init__(self, data: SFTDataModule, place: str, severity: int) -> None:
        super().__init__(data, place)
        self.severity = severity

    def load(self, trainer: Any, network: Network, pretrained: Network | None) -> None:
        """Rewrites the texts of validation and test before they become tokens."""
        if self.task is None:
            self.data.trainer = trainer
            with at_retention(self.place):
                self.data.setup("fit")
            for name, split in self.data.splits.items():
                if name in ("val", "test"):
                    made = split.samples.rewritten(
                        lambda texts, row: typos(texts, self.severity, row), split.rows.tolist()
                    )
                    if made is None:
                        fix = "use texts with one label or sets of labels, or tagged words; or leave the corruption out"
                        raise UserError(self.place, f"{type(self.data).__name__} has no texts for typos", fix)
                    self.data.splits[name] = Split(made, split.rows, split.targets, split.train, split.name)
        super().load(trainer, network, pretrained)


class NamedSets(dict[str, SourceData]):
    """Sets by name, and the name of the set that is `retention` itself, if it has one."""

    itself: str = ""

    def also(self, values: Mapping[str, float]) -> dict[str, float]:
        """Metrics of `retention`, also under its name."""
        more = {f"retention/{self.itself}/{n.removeprefix('retention/')}": v for n, v in values.items()}
        return {**values, **(more if self.itself else {})}


def make_sets(blocks: Mapping[str, Any] | None, source: SourceData | None) -> NamedSets:
    """Builds each named set: from class_path and init_args, as `retention` is written, or `retention` itself with a corruption.
    The word `retention` in place of a set gives that one a name.

    Raises UserError for a name that cannot stand in a metric's, a block that describes no set, or if there is no `retention`
    beside which the sets are measured.
    """
    made = NamedSets()
    if blocks is None:
        return made
    if not isinstance(blocks, Mapping) or not blocks:
        fix = "write NAME: {class_path: …, init_args: {…}}, or NAME: {corruption: …}"
        raise UserError(KEY, f"must map names to sets, got {blocks!r}", fix)
    if source is None:
        raise UserError(KEY, "needs retention, the set that is used to choose", "set retention to one of them")
    for name, block in blocks.items():
        if not re.fullmatch(NAME, str(name)):
            fix = "use letters, digits, - and _, and begin with a letter"
            raise UserError(KEY, f"'{name}' is no name for a metric", fix)
        if block != ITSELF:
            made[str(name)] = make_set(f"{KEY}.{name}", block, source)
        elif made.itself:
            raise UserError(f"{KEY}.{name}", f"retention has the name {made.itself} already", "leave one of them out")
        else:
            made.itself = str(name)
    return made


def make_set(key: str, block: Any, source: SourceData) -> SourceData:
    """Builds one set."""
    known = {"class_path", "init_args", "corruption", "severity"}
    if not isinstance(block, Mapping) or set(block) - known or not {"class_path", "corruption"} & set(block):
        fix = f"class_path is one of {listed(list(DATA_MODULES))}"
        raise UserError(key, f"must have class_path and init_args, or a corruption, got {block!r}", fix)
    data = source.data
    if "class_path" in block:
        data = build(key, str(block["class_path"]), block.get("init_args") or {})
    elif "init_args" in block:
        raise UserError(key, "has init_args without class_path", "add class_path, or leave init_args out")
    if "corruption" not in block:
        if "severity" in block:
            raise UserError(f"{key}.severity", "has no effect without a corruption", "leave it out")
        return SourceData(data, key)
    how, severity = block["corruption"], block.get("severity", SEVERITY)
    if how not in HOW:
        raise UserError(
            f"{key}.corruption", f"there is no '{how}'{nearest(str(how), HOW)}", f"use one of {', '.join(HOW)}"
        )
    if severity not in SEVERITIES or isinstance(severity, bool):
        raise UserError(f"{key}.severity", f"must be 1, 2, 3, 4 or 5, got {severity!r}")
    if how == TYPOS:
        own = data if data is not source.data else type(data)(**data.arguments)
        return MistypedSource(own, key, severity)
    return CorruptedSource(data, key, how, severity)


def build(key: str, class_path: str, arguments: Mapping[str, Any]) -> SFTDataModule:
    """Builds a data module. Raises UserError at `key`."""
    try:
        return DATA_MODULES.load(class_path, SFTDataModule)(**arguments)
    except UserError as error:
        raise UserError(key, f"{error.key}: {error.problem}", error.fix) from None
    except TypeError as error:
        raise UserError(key, f"{class_path} cannot be built: {error}") from None
