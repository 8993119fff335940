"""Peers without a trainer: a loop in plain torch, Fabric, timm's step."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.bench.chunked_kl import loss_with_kl
from benchmarks.bench.job import FOREVER, Job

Batch = dict[str, Tensor]


def batches(job: Job, loader: Any) -> Iterator[Batch]:
    """Batches on the device, epoch after epoch."""
    for _ in range(FOREVER):
        for batch in loader:
            yield {name: tensor.to(job.device) for name, tensor in batch.items()}


def train(
    job: Job, fused: bool = False, loader: Any = None, loss_of: Callable[[Any, Batch], Tensor] | None = None
) -> None:
    """The loop of every tutorial."""
    model = job.model().to(job.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=job.lr, weight_decay=0.0, fused=fused or None)
    loss_of = loss_of or (lambda m, b: m(**b)["loss"])
    for batch in batches(job, loader or job.loader()):
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()


def raw(job: Job) -> None:
    train(job)


def raw_fused(job: Job) -> None:
    train(job, fused=True)


def raw_kl(job: Job) -> None:
    """Distillation by a loop: the language model's loss and, in pieces of the vocabulary's rows, the divergence."""
    teacher = job.model().to(job.device).eval().requires_grad_(False)
    train(job, loss_of=lambda model, batch: loss_with_kl(model, teacher, batch))


class WholeBatches:
    """Images as batches of bytes, with crop and flip on the whole batch: what a careful loop does."""

    def __init__(self, job: Job) -> None:
        prepared, self.job = job.prepared, job
        assert prepared.images is not None and prepared.targets is not None
        self.images, self.targets = prepared.images.to(job.device), prepared.targets.to(job.device)
        mean, std = (torch.tensor(v, device=job.device).view(-1, 1, 1) for v in (prepared.mean, prepared.std))
        self.mean, self.std = 255 * mean, 255 * std

    def __iter__(self) -> Iterator[Batch]:
        size = self.job.workload.batch
        order = self.job.prepared.order
        rows = [torch.tensor(r) for r in order] if self.job.check else torch.randperm(len(self.images)).split(size)
        for at in rows:
            images = self.images[at.to(self.images.device)]
            if not self.job.check:
                images = self.moved(images)
            yield {"x": (images.float() - self.mean) / self.std, "labels": self.targets[at.to(self.targets.device)]}

    def moved(self, images: Tensor) -> Tensor:
        if "crop" in self.job.workload.augment:
            side = images.shape[-1]
            padded = torch.nn.functional.pad(images, (4, 4, 4, 4))
            places = torch.randint(9, (len(images), 2)).tolist()
            images = torch.stack([p[:, y : y + side, x : x + side] for p, (y, x) in zip(padded, places, strict=True)])
        flip = (torch.rand(len(images), device=images.device) < 0.5)[:, None, None, None]
        return torch.where(flip, images.flip(-1), images)


def raw_batched(job: Job) -> None:
    train(job, loader=WholeBatches(job))


def fabric(job: Job) -> None:
    """Lightning Fabric: the same loop, set up by it."""
    from lightning.fabric import Fabric

    made = Fabric(accelerator=job.accelerator, devices=1)
    model = job.model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=job.lr, weight_decay=0.0)
    model, optimizer = made.setup(model, optimizer)
    loader = made.setup_dataloaders(job.loader())
    for _ in range(FOREVER):
        for batch in loader:
            optimizer.zero_grad()
            made.backward(model(**batch)["loss"])
            optimizer.step()


def timm(job: Job) -> None:
    """The step of timm's train.py: its optimizer, and the loss that it averages every 50 steps."""
    from timm.optim import create_optimizer_v2
    from timm.utils import AverageMeter

    model, losses = job.model().to(job.device), AverageMeter()
    optimizer = create_optimizer_v2(model, opt="adamw", lr=job.lr, weight_decay=0.0)
    for step, batch in enumerate(batches(job, job.loader())):
        loss = model(**batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            losses.update(loss.item(), len(batch["labels"]))
