"""Data of the peers, as their tutorials have it: a data set of single samples, a loader that shuffles and collates."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.bench.workload import Prepared, Workload

Sample = dict[str, Any]


class Pictures(Dataset[Sample]):
    """Images as PIL, through torchvision's transforms, one by one."""

    def __init__(self, prepared: Prepared, augment: tuple[str, ...]) -> None:
        assert prepared.images is not None and prepared.targets is not None
        self.pixels, self.labels = prepared.images.permute(0, 2, 3, 1).numpy(), prepared.targets.tolist()
        steps: list[Any] = [transforms.ToPILImage()]
        if "crop" in augment:
            steps.append(transforms.RandomCrop(self.pixels.shape[1], padding=4))
        if "flip" in augment:
            steps.append(transforms.RandomHorizontalFlip())
        self.transform = transforms.Compose(
            [*steps, transforms.ToTensor(), transforms.Normalize(prepared.mean, prepared.std)]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, at: int) -> Sample:
        return {"x": self.transform(self.pixels[at]), "labels": self.labels[at]}


class Vectors(Dataset[Sample]):
    """Images that are tensors of numbers from the start."""

    def __init__(self, prepared: Prepared) -> None:
        self.x, self.labels = normalised(prepared, slice(None)), prepared.targets

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, at: int) -> Sample:
        assert self.labels is not None
        return {"x": self.x[at], "labels": self.labels[at]}


class TokenRows(Dataset[Sample]):
    """Texts that were tokenised before; the labels are classes, or tokens."""

    def __init__(self, prepared: Prepared) -> None:
        self.ids = prepared.ids
        self.labels: list[Any] = prepared.labels or prepared.targets.tolist()  # type: ignore[union-attr]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, at: int) -> Sample:
        return {"input_ids": self.ids[at], "attention_mask": [1] * len(self.ids[at]), "labels": self.labels[at]}


def normalised(prepared: Prepared, rows: Any) -> Tensor:
    """The network's input for these rows."""
    assert prepared.images is not None
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (prepared.mean, prepared.std))
    return (prepared.images[rows].float() / 255 - mean) / std


def dataset_of(workload: Workload, prepared: Prepared, augmented: bool) -> Dataset[Sample]:
    if workload.kind != "images":
        return TokenRows(prepared)
    if workload.name == "mlp":
        return Vectors(prepared)
    return Pictures(prepared, workload.augment if augmented else ())


def collator_of(workload: Workload, prepared: Prepared) -> Any:
    """The collators of transformers for texts; None for that of torch."""
    if workload.kind == "images":
        return None
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq, DataCollatorWithPadding

    tokenizer = AutoTokenizer.from_pretrained(prepared.folder)
    tokenizer.padding_side = "right"
    tokenizer.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] = True
    return (DataCollatorWithPadding if workload.kind == "text" else DataCollatorForSeq2Seq)(tokenizer)


def loader_of(workload: Workload, prepared: Prepared, check: bool) -> DataLoader[Any]:
    """Batches in the order of the check, or shuffled and augmented as the workload says."""
    data, collate = dataset_of(workload, prepared, not check), collator_of(workload, prepared)
    if check:
        return DataLoader(data, batch_sampler=prepared.order, collate_fn=collate)
    return DataLoader(data, batch_size=workload.batch, shuffle=True, collate_fn=collate)


def probe_batch(workload: Workload, prepared: Prepared) -> dict[str, Tensor]:
    """The batch on which losses are compared: the first of the check, at most 8 samples."""
    rows = prepared.order[0][:8]
    if workload.kind == "images":
        assert prepared.targets is not None
        return {"x": normalised(prepared, rows), "labels": prepared.targets[rows]}
    width = max(len(prepared.ids[r]) for r in rows)
    ids, mask = np.zeros((len(rows), width), dtype=np.int64), np.zeros((len(rows), width), dtype=np.int64)
    for at, row in enumerate(rows):
        n = len(prepared.ids[row])
        ids[at, :n], mask[at, :n] = prepared.ids[row], 1
    batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    if not prepared.labels:
        assert prepared.targets is not None
        return {**batch, "labels": prepared.targets[rows]}
    labels = torch.full((len(rows), width), -100)
    for at, row in enumerate(rows):
        labels[at, : len(prepared.labels[row])] = torch.tensor(prepared.labels[row])
    return {**batch, "labels": labels}
