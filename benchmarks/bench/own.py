"""Our own arms: from Python, by the command line, and the anchored variants."""

from typing import Any

import torch
import torch.nn.functional as F
import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

import sft_lightning
from benchmarks.bench.gate import Enough
from benchmarks.bench.job import FOREVER, Job
from benchmarks.bench.peer_data import probe_batch
from benchmarks.bench.reference import fill, tensors_of
from sft_lightning.cli.main import main
from sft_lightning.data.base import SFTDataModule
from sft_lightning.data.datamodule import DATA_MODULES
from sft_lightning.modules import SFTModule
from sft_lightning.modules.base import VARIANTS

DISTIL = {"anchor_weight": 1.0}
PLAIN: tuple[str, dict[str, Any]] = ("PlainSFT", {})
OF_ARM: dict[str, tuple[str, dict[str, Any]]] = {
    "distill_features": ("DistillSFT", {**DISTIL, "on": "features"}),
    "distill_cached": ("DistillSFT", {**DISTIL, "on": "features", "teacher_cache": "memory"}),
    "distill_source_logits": ("DistillSFT", {**DISTIL, "on": "source_logits"}),
    "distill_kl": ("DistillSFT", {**DISTIL, "on": "logits", "distance": "kl", "temperature": 1.0}),
    "l2sp_loss": ("L2SPSFT", {"alpha": 0.01, "beta": 0.0}),
    "l2sp_decoupled": ("L2SPSFT", {"how": "decoupled", "decoupled_weight": 0.3}),
}
"""Variant and settings; PlainSFT for all other arms"""

_working: list[Job] = []
"""The job of this process"""


class SameStart(Callback):
    """Gives the network the initial weights that all peers have, and says what its loss is on the fixed batch."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        (job,), network = _working, pl_module.network
        weights = job.prepared.weights
        if weights is not None:
            fill(tensors_of(network.encoder, network.head), weights)  # type: ignore[union-attr, arg-type]
        batch = probe_batch(job.workload, job.prepared)

        def probe() -> float:
            held = {name: tensor.to(pl_module.device) for name, tensor in batch.items()}
            labels = held.pop("labels")
            logits = network({"image": held.pop("x")} if "x" in held else held).logits  # type: ignore[operator]
            if labels.ndim == 2:
                logits, labels = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
            return float(F.cross_entropy(logits, labels, ignore_index=-100))

        job.gate.probe = probe


def variant_of(job: Job) -> tuple[str, dict[str, Any]]:
    name, settings = OF_ARM.get(job.name, PLAIN)
    return name, {"lr": job.lr, **settings}


def data_of(job: Job) -> dict[str, Any]:
    """The data's settings; without augmentation and without batches by length in the check."""
    given = job.prepared.own["data"]
    settings = dict(given["init_args"])
    if job.workload.kind == "images":
        settings["augment"] = [] if job.check else list(job.workload.augment)
    elif job.check:
        settings["group_by_length"] = False
    if job.name == "packed":
        settings["packing"] = True
    return {"class_path": given["class_path"], "init_args": settings}


def trainer_of(job: Job) -> dict[str, Any]:
    """No validation falls into a turn; that before training takes one batch."""
    start = {"class_path": "benchmarks.bench.own.SameStart"}
    never = {"max_epochs": FOREVER, "check_val_every_n_epoch": FOREVER, "limit_val_batches": 1}
    return {"accelerator": job.accelerator, "devices": 1, "callbacks": [start], **never}


def python(job: Job) -> None:
    """`sft_lightning.run` and Trainer, without W&B."""
    _working[:] = [job]
    cls, settings = variant_of(job)
    data = data_of(job)
    module = VARIANTS.load(cls, SFTModule)(job.prepared.own["network"], **settings)
    made = DATA_MODULES.load(data["class_path"], SFTDataModule)(**data["init_args"])
    options: dict[str, Any] = {"runs_dir": str(job.folder), "wandb": "disabled", "signals": False, "seed": 0}
    with sft_lightning.run("bench", **options) as run:
        Trainer(**run.trainer_kwargs(**trainer_of(job))).fit(module, datamodule=made)


def cli(job: Job) -> None:
    """`sft-lightning fit` with all its telemetry, W&B offline."""
    _working[:] = [job]
    cls, settings = variant_of(job)
    config = {
        "seed_everything": 0,
        "model": {"class_path": cls, "init_args": settings},
        "network": job.prepared.own["network"],
        "data": data_of(job),
        "trainer": trainer_of(job),
    }
    if job.workload.saves:
        config["save_every_n_steps"] = job.workload.steps
    path = job.folder / f"{'check' if job.check else 'turns'}.yaml"
    path.write_text(yaml.safe_dump(config))
    wandb = "disabled" if job.check else "offline"
    arguments = ["--config", str(path), "--runs_dir", str(job.folder), "--experiment", "bench", "--wandb", wandb]
    torch.manual_seed(0)
    code = main(["fit", *arguments])
    raise RuntimeError(f"fit ended with exit code {code}") if not job.gate.ended else Enough
