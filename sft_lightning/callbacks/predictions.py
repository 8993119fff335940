"""Writes `predictions.jsonl`: one object per sample, in the order of the data."""

import json
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from sft_lightning.data.base import Samples, SFTDataModule
from sft_lightning.runs.directory import write_atomic

FILED = {"mask": "masks", "overlay": "overlays"}
"""Values of a line that name files, and the folders of these files"""


class WritePredictions(Callback):
    """Collects the predictions of all ranks, and writes them sorted by sample.

    Each line has `index`, the sample's row number, and the values that its task decodes: for classification `label` and
    `probabilities` in class order, for sets of labels `labels` and `probabilities` in label order, for multiple choice `choice`
    (its place, from 0), `probabilities` and `text`, for regression `value`, for questions about a text `answer`, its `score`
    and its characters (`start`, `end`), for language models `tokens` and `probabilities` in the order of positions, and `text`
    that was generated, for speech `text` and `words` with `start` and `end` in seconds, for segmentation `mask`, the name of a
    PNG file below the file's folder, and `pixels` of each class, for detection `boxes` in pixels of the file, their `scores`
    and `labels`. The data adds what it knows of a sample, such as the places of entities.

    Args:
        path: The file to write.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._rows: list[dict[str, Any]] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Removes the files that an earlier prediction names, so that none is left without its line."""
        if trainer.is_global_zero:
            remove_filed(self.path)
        trainer.strategy.barrier()

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        index = batch["index"][batch["real"]] if "real" in batch else batch["index"]
        samples, task = samples_of(trainer), getattr(pl_module, "info", None)
        for number, row in zip(index.tolist(), outputs, strict=True):
            filed = row if samples is None else samples.filed(number, row, self.path.parent, task)
            self._rows.append({"index": number, **filed})

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rows = self._rows
        if trainer.world_size > 1:
            parts: list[Any] = [None] * trainer.world_size
            dist.all_gather_object(parts, rows)
            rows = [row for part in parts for row in part]
        if trainer.is_global_zero:
            rows.sort(key=lambda row: row["index"])
            samples, task = samples_of(trainer), getattr(pl_module, "info", None)
            if samples is not None:
                rows = [{"index": at, **samples.completed(at, row, task)} for row in rows for at in [row.pop("index")]]
            write_atomic(self.path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            if samples is not None:
                samples.summed(rows, self.path.parent, task)
        self._rows = []


def samples_of(trainer: Trainer) -> Samples | None:
    """The samples that a trainer predicts on; None for data of another library."""
    data = getattr(trainer, "datamodule", None)
    return (
        data.splits["predict" if "predict" in data.splits else "test"].samples
        if isinstance(data, SFTDataModule)
        else None
    )


def remove_filed(path: Path) -> None:
    """Removes the files of FILED that the lines of an earlier `predictions.jsonl` name."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        for key, folder in FILED.items():
            name = str(row.get(key, "")) if isinstance(row, dict) else ""
            if name.startswith(f"{folder}/") and "/" not in name.removeprefix(f"{folder}/"):
                (path.parent / name).unlink(missing_ok=True)
