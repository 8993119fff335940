"""Opens what a gate compares: a run, an export, or the pretrained network from which a run started."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from sft_lightning.core import plain_yaml
from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import Batch, Output
from sft_lightning.data.base import SFTDataModule
from sft_lightning.data.fingerprints import fingerprints
from sft_lightning.evaluation.retention_sets import ITSELF, KEY, SEVERITY, make_sets
from sft_lightning.evaluation.source import check_source, settle_source
from sft_lightning.evaluation.source_data import SourceData, at_retention
from sft_lightning.export.card import CONFIG
from sft_lightning.export.own_folder import load_export
from sft_lightning.export.tuned import open_data, open_run
from sft_lightning.gate.scores import Scores, ask
from sft_lightning.networks.base import Network
from sft_lightning.networks.spec import build_network
from sft_lightning.networks.transforms import without_transforms
from sft_lightning.networks.weights import resolve
from sft_lightning.tasks import make_task

START = "start"


@dataclass
class Model:
    """A network, the data that it is asked on, and what its run recorded."""

    name: str
    network: Network
    config: dict[str, Any]
    record: dict[str, Any]
    """run.json; empty for an export"""
    data: SFTDataModule
    which: str = "best"
    """The recorded values that are this network's: 'best' or 'before'"""

    def __post_init__(self) -> None:
        self._asked: dict[tuple[str | None, str], Scores] = {}
        self._sources: dict[str, SourceData] = {}
        info = self.data.task_info
        self.known = 0 if info is None else info.known
        """Old labels among those of the data, which the metrics of groups need; an export does not tell them from new ones"""

    @property
    def sets(self) -> dict[str, Any]:
        """The named sets of the source task, as the config describes them."""
        return dict(self.config.get(KEY) or {})

    def scores(self, place: str | None, split: str) -> Scores:
        """The network's scores on a split. It is asked once.

        Args:
            place: None for the target's data, '' for those of retention, or the name of a set.
            split: 'val' or 'test'.

        Raises:
            UserError: there is no such split, or no source data.
        """
        key = place, split
        if key not in self._asked:
            self._asked[key] = self._ask(*key)
        return self._asked[key]

    def fingerprint(self, place: str | None, split: str) -> str:
        """Hash of a split's content, rows and targets."""
        data = self.data if place is None else self.source(place).data
        return fingerprints({split: data.splits[split]})["fingerprint"][split]

    def _ask(self, place: str | None, split: str) -> Scores:
        network = self.network
        if place is not None:
            source = self.source(place)
            task = source.task
            assert task is not None

            def answer(batch: Batch) -> Output:
                return source.output(network, network.answered(network(batch["x"], task.select(batch)), batch))

            with at_retention(source.place):
                return ask(network, source.data, split, task, answer, source.receive)
        if self.which == "before" and not network.shares_outputs:
            raise UserError(
                "--against",
                "start has no head for the target yet",
                "require retention/… against start, and val/… against a run or an export",
            )
        own = make_task(replace(network.task, known=self.known))
        return ask(network, self.data, split, own, lambda b: network.answered(network(b["x"], own.select(b)), b))

    def source(self, name: str = "") -> SourceData:
        """The source task's data, or those of a named set, prepared for this network, as the run prepared them."""
        if name and name not in self.sets:
            raise UserError(
                "--require", f"{self.name} has no set '{name}' among its {KEY}", "compare runs with equal sets"
            )
        if name and self.sets[name] == ITSELF:
            return self.source()
        if name not in self._sources:
            self._sources[name] = self._of_set(name) if name else self._of_retention()
        return self._sources[name]

    def _of_retention(self) -> SourceData:
        if not self.config.get("retention"):
            raise UserError(
                "--require",
                f"{self.name} measured no retention, so that there is no source data to ask on",
                "fit with retention: data, or require val/… and test/… alone",
            )
        pretrained = pretrained_of(self.config, self.network)
        if not self.network.shares_outputs and self.network.source_head is None:
            raise UserError("--require", f"{self.name} has no source head", "export it with --heads both")
        with at_retention():
            data = open_data(self.config, "retention")
            info = check_source(pretrained, data)
            settle_source(self.network, pretrained, data)
        found = SourceData(data)
        found.task = make_task(info)
        return found

    def _of_set(self, name: str) -> SourceData:
        own = self.source()
        found = make_sets({name: self.sets[name]}, own)[name]
        if found.data is own.data:  # the same samples, corrupted
            found.task = own.task
            return found
        if found.data.seed is None:
            found.data.seed = int(self.config.get("seed_everything") or 0)
        found.data.prepare_data()
        found.load(None, self.network, pretrained_of(self.config, self.network))
        return found


def open_model(place: str) -> Model:
    """Opens a run or an export.

    Raises UserError if it is unfinished, has lost its weights or its data, or is in another library's format.
    """
    path = Path(place).expanduser()
    if (path / "run.json").is_file():
        tuned = open_run(path)
        return Model(place, tuned.network, tuned.config, tuned.run.record, tuned.data)
    if not path.is_dir():
        raise UserError(place, "is not a folder", "name a run or an export")
    if not (path / CONFIG).is_file():
        raise UserError(place, f"is neither a run nor an export, because it has no {CONFIG}", "name a run or an export")
    try:
        config = dict(plain_yaml.load_file(path / CONFIG))
    except (yaml.YAMLError, ValueError, TypeError, OSError) as error:
        raise UserError(path / CONFIG, f"cannot be read: {error}") from None
    if not (path / "config.json").is_file() or not resolve(str(path)).ours.get("network"):
        raise UserError(
            place, "is an export in a format that sft_lightning does not load", "gate the run, or export safetensors"
        )
    network = load_export(path)
    data = open_data(config)
    network.settle(data.settle(network.wanted_input()))
    return Model(place, network, config, {}, data)


def open_start(candidate: Model) -> Model:
    """The pretrained network from which the candidate started."""
    network = pretrained_of(candidate.config, candidate.network).requires_grad_(False).eval()
    data = open_data(candidate.config)
    network.settle(data.settle(network.wanted_input()))
    return Model(START, network, candidate.config, candidate.record, data, "before")


def pretrained_of(config: dict[str, Any], tuned: Network) -> Network:
    """Builds the pretrained network of a config, with a new head that is not drawn on."""
    block = config.get("network") or {}
    if "class_path" not in block:
        raise UserError("network", "the config does not say which network", "gate a run that the command fit made")
    made = build_network(without_transforms(block), tuned.task)
    if made.pretrained is None:
        raise UserError("network", "started from random weights, so that it has nothing to keep", "require val/… alone")
    return made


def check_same(candidate: Model, base: Model, place: str | None, split: str) -> None:
    """Raises UserError unless both models are asked on the same samples, with the same targets and labels."""
    how = [{} if not place or m.sets[place] == ITSELF else m.sets[place] for m in (candidate, base)]
    corrupted = [(one.get("corruption"), one.get("severity", SEVERITY)) for one in how]
    if corrupted[0] != corrupted[1]:
        raise UserError(
            "--against", f"the set {place} of {base.name} is corrupted in another way", "compare runs with equal sets"
        )
    one, other = candidate.scores(place, split), base.scores(place, split)
    what = f"{split} of {'data' if place is None else place or 'retention'}"
    mine, theirs = candidate.fingerprint(place, split), base.fingerprint(place, split)
    if one.n != other.n or (one.rows != other.rows).any() or mine != theirs:
        raise UserError(
            "--against",
            f"{base.name} was fitted with other data: {what} has {other.n} samples ({theirs}), the candidate's has {one.n} "
            f"({mine})",
            "compare models whose data: and retention: give the same samples",
        )
    labels = [scores.task.info.labels for scores in (one, other)]
    if one.task.name != other.task.name or labels[0] != labels[1]:
        raise UserError(
            "--against",
            f"{base.name} predicts {other.task.name} of {labels[1]}, the candidate {one.task.name} of {labels[0]}",
            "compare models with the same task and labels",
        )
