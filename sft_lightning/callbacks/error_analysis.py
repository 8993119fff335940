"""Writes `details.json`, which explains a run's numbers: confusion matrices, drift by layer, forgotten samples."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from sft_lightning.anchors.weight_space import squared_distance
from sft_lightning.callbacks.overlays import overlays
from sft_lightning.callbacks.shown_samples import PARAGRAPH, readable, seen, short, table_of
from sft_lightning.core.structures import Output
from sft_lightning.data.bad_samples import printable
from sft_lightning.data.base import SFTDataModule
from sft_lightning.evaluation.lost import lost_and_gained, lost_and_gained_in_words
from sft_lightning.evaluation.predictions import Answers, Predictions, confusion, merged, of_both
from sft_lightning.evaluation.retention import RetentionMonitor
from sft_lightning.evaluation.said import SaidSamples, Spoken, differing
from sft_lightning.modules.tuned import TunedModule
from sft_lightning.runs.directory import write_atomic
from sft_lightning.runs.wandb_log import WandbLog

TARGET = "target"


class Details(Callback):
    """Writes `details.json` after the split was measured; it collects nothing and takes no time while fitting.

    - `confusion`: of the target task, rows true, columns predicted; for classification of at most `classes` classes.
    - `source_confusion`: `before` and `after` tuning, through the kept source head on the source task's split.
    - `layers`: of each encoder layer, bottom to top, `l2` = ‖w − w⁰‖ and `relative` = the same over ‖w⁰‖, over the
      parameters that the pretrained network has too; null if ‖w⁰‖ is 0 and w is not.
    - `changed`: source samples that the pretrained network had right and the tuned one has wrong, most confident mistakes
      first; `changed_total` of `compared`. Without source data: the target's samples (of those that the retention monitor
      compares, see its `drift_rows`) for which the kept source head's prediction changed. Of tasks that say tags or texts:
      samples of which less is right (`score_before`, `score_after`), or of which something else is said; of answers
      also where they begin in the text (`start_before`, `start_after`). Images and short
      sounds are within the file; of masks and boxes `pictures`, the image with what is true and what was found before and
      after drawn over it, and the `colours` of their classes.

    - `lost_and_gained`: numbers of source samples that were right before and are wrong after, and the reverse, with `n`; of
      classes also by class, worst first, with intervals (see `evaluation/lost.py`).

    Parts that a task or a network does not have are absent. A fit that starts or resumes deletes an earlier file, which
    was measured on an older checkpoint.

    Args:
        path: The file to write.
        split: 'test' (measured by `trainer.test`) or 'val' (by `trainer.validate`); other splits are ignored.
        samples: Number of changed samples that are listed.
        classes: Largest number of classes that gets a matrix.
        monitor: The run's retention monitor, which keeps predictions for this callback.
    """

    def __init__(
        self,
        path: str | Path,
        split: Literal["test", "val"] = "test",
        samples: int = 24,
        classes: int = 100,
        monitor: RetentionMonitor | None = None,
    ) -> None:
        self.path, self.split, self.samples, self.classes = Path(path), split, samples, classes
        self.monitor = monitor
        self._step: int | None = None
        self._said: Answers | None = None
        self._layers: list[dict[str, Any]] = []

    # ---- collecting ----

    def _measured(self, trainer: Trainer) -> bool:
        return trainer.state.fn == ("test" if self.split == "test" else "validate")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._step = None

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._measured(trainer):
            self._step = int(checkpoint["global_step"])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.path.unlink(missing_ok=True)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, TunedModule) and pl_module.info is not None
        if not self._measured(trainer):
            return
        task = pl_module.task
        wanted = task is not None and task.has_classes and task.info.num_outputs <= self.classes
        self._said = Answers() if wanted else None
        if self.monitor is not None:
            self.monitor.said = {}

    on_test_start = on_validation_start

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._said is not None and self._measured(trainer) and isinstance(outputs, Output):
            self._said.add(batch, outputs.logits)

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures layers now, while the module has the weights that were measured; EMA may swap them out later."""
        assert isinstance(pl_module, TunedModule)
        if self._measured(trainer):
            self._layers = layer_drift(pl_module)

    on_test_epoch_end = on_validation_epoch_end

    # ---- writing ----

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, TunedModule)
        if not self._measured(trainer):
            return
        monitor = self.monitor
        mine, texts = {TARGET: self._said} if self._said is not None else {}, dict[str, SaidSamples]()
        if monitor is not None:
            mine |= {name: found for name, found in (monitor.said or {}).items() if isinstance(found, Answers)}
            texts = {name: found for name, found in (monitor.said or {}).items() if isinstance(found, SaidSamples)}
            monitor.said = None
        self._said = None
        spoken = {name: found.of_all_ranks() for name, found in texts.items()}
        said = gathered(trainer, {name: answers.said() for name, answers in mine.items()})
        if not trainer.is_global_zero:
            return
        details: dict[str, Any] = {
            "schema": 1,
            "split": self.split,
            "step": trainer.global_step if self._step is None else self._step,
        }
        if TARGET in said:
            assert pl_module.info is not None
            labels = class_names(pl_module.info.labels, pl_module.info.num_outputs)
            details["confusion"] = {"labels": labels, "counts": confusion(said[TARGET], len(labels))}
        details |= {"layers": self._layers, **self._kept(trainer, pl_module, said)}
        details |= self._said_otherwise(trainer, pl_module, spoken)
        write_atomic(self.path, json.dumps(details, allow_nan=False) + "\n")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLog) and details.get("changed"):
                logger.log_panels({f"{self.split}/changed": table_of(details["changed"])}, details["step"])

    on_test_end = on_validation_end

    def _kept(self, trainer: Trainer, module: TunedModule, said: dict[str, Predictions]) -> dict[str, Any]:
        """How the source task changed: on its own samples, or else by its head's predictions on the target's samples."""
        monitor, network = self.monitor, module.network
        assert network is not None
        if monitor is not None and "source before" in said:
            assert monitor.source_task is not None and monitor.source_data is not None
            info = monitor.source_task.info
            labels = class_names(info.labels or network.source_labels, info.num_outputs)
            before, after = of_both(said["source before"], said["source after"])
            forgotten = (before.classes == before.targets) & (after.classes != after.targets)
            kept = self._changed("retention", before, after, forgotten, labels, monitor.source_data)
            if len(labels) <= self.classes:
                matrices = {"before": confusion(before, len(labels)), "after": confusion(after, len(labels))}
                kept["source_confusion"] = {"labels": labels, **matrices}
            kept["lost_and_gained"] = lost_and_gained(before, after, labels, self.classes)
            return kept
        if "head before" in said:
            before, after = of_both(said["head before"], said["head after"])
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            labels = class_names(network.source_labels, int(max(before.classes.max(), after.classes.max())) + 1)
            return self._changed("source_head", before, after, before.classes != after.classes, labels, data)
        return {}

    def _said_otherwise(self, trainer: Trainer, module: TunedModule, spoken: dict[str, Spoken]) -> dict[str, Any]:
        """How texts, tags and the like changed: on the source task's own samples, or else on the target's."""
        on = "source" if spoken.get("source before") else "head"
        before, after = (spoken.get(f"{on} {when}", {}) for when in ("before", "after"))
        if not before or not after:
            return {}
        data: Any = self.monitor.source_data if on == "source" and self.monitor else trainer.datamodule  # type: ignore[attr-defined]
        split = data.splits.get(self.split) if isinstance(data, SFTDataModule) else None
        rows, compared = differing(before, after)
        source = self.monitor.source_task if on == "source" and self.monitor else None
        assert module.network is not None
        info = module.network.source_task if source is None else source.info
        entries, labels = list[dict[str, Any]](), [] if info is None else class_names(info.labels, info.num_outputs)
        for row in rows[: self.samples]:
            one, other = before[row], after[row]
            entry: dict[str, Any] = {"on": "retention" if on == "source" else "outputs", "row": row, "form": other.form}
            entry["name"] = short(split.samples.name(row)) if split else f"sample {row}"
            if other.right is not None:
                entry["label"] = readable(other.right)
            for when, said in (("before", one), ("after", other)):
                entry[when] = readable(said.said)
                if said.start is not None:
                    entry[f"start_{when}"] = said.start
                if said.score is not None:
                    entry[f"score_{when}"] = finite_or_none(said.score)
            pictures = {"truth": other.truth or one.truth, "before": one.found, "after": other.found}
            shown = overlays(split.samples, row, pictures, labels) if split else {}
            shown = shown or (seen(split.samples, row) if split else {})
            if other.form == "answer" and split and "text" in (whole := split.samples.shown(row)):
                shown["text"] = printable(whole["text"][:PARAGRAPH])
            entries.append({**entry, **shown})
        content = {"changed": entries, "changed_total": len(rows), "compared": compared}
        counts = lost_and_gained_in_words(before, after) if on == "source" else {}
        return {**content, "lost_and_gained": counts} if counts else content

    def _changed(
        self, on: str, before: Predictions, after: Predictions, changed: np.ndarray, labels: list[str], data: Any
    ) -> dict[str, Any]:
        split = data.splits.get(self.split) if isinstance(data, SFTDataModule) else None
        at = np.flatnonzero(changed)
        sure = np.nan_to_num(after.confidences[at].round(6), nan=-1.0)
        entries = []
        for i in at[np.lexsort((after.rows[at], -sure))][: self.samples].tolist():
            row = int(after.rows[i])
            entry: dict[str, Any] = {"on": on, "row": row}
            entry["name"] = short(split.samples.name(row)) if split else f"sample {row}"
            if on == "retention":
                entry["label"] = labels[after.targets[i]]
            for when, answers in (("before", before), ("after", after)):
                entry[when] = labels[answers.classes[i]]
                entry[f"confidence_{when}"] = finite_or_none(float(answers.confidences[i]))
            entries.append({**entry, **(seen(split.samples, row) if split else {})})
        return {"changed": entries, "changed_total": len(at), "compared": len(after.rows)}


def gathered(trainer: Trainer, mine: dict[str, Predictions]) -> dict[str, Predictions]:
    """All ranks' predictions, each sample once. Every rank must call this."""
    parts: list[Any] = [mine]
    if trainer.world_size > 1:
        parts = [None] * trainer.world_size
        dist.all_gather_object(parts, mine)
    together = {name: merged([part[name] for part in parts if name in part]) for part in parts for name in part}
    return {name: said for name, said in together.items() if len(said.rows)}


def layer_drift(module: TunedModule) -> list[dict[str, Any]]:
    """Distance of each encoder layer from its pretrained weights, bottom to top; empty for a network from scratch.

    All ranks must call this, as each may hold a part of the weights.
    """
    network, teacher = module.network, module.teacher
    if network is None or teacher is None:
        return []
    shared, layers = network.shared_weights(), list[dict[str, Any]]()
    for layer, names in network.layers():
        known = [old for n in names if (old := network.renamed.get(n, n)) in shared]
        if not known:
            continue
        start = teacher.initial_weights(known)
        l2 = float(squared_distance([shared[n] for n in known], start).sqrt())
        length = float(squared_distance(start, None).sqrt())
        relative = l2 / length if length else 0.0 if l2 == 0 else math.nan
        layers.append({"name": layer, "relative": finite_or_none(relative), "l2": finite_or_none(l2)})
    return layers


def finite_or_none(value: float) -> float | None:
    """A value to six decimals, or None (null) for NaN and infinity, which JSON lacks."""
    return round(value, 6) if math.isfinite(value) else None


def class_names(labels: Sequence[str], outputs: int) -> list[str]:
    """The classes' names, or their numbers if they have no names."""
    return [printable(str(name)) for name in labels] or [str(i) for i in range(outputs)]
