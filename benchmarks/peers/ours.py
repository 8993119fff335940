"""sft_lightning under test, as a Python user writes it; stopping and going on by the command line."""

import os
import signal
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor
from torch.optim import Optimizer

from benchmarks.peers.interface import (
    ALPHA,
    BATCH,
    EVAL_BATCH,
    LABELS,
    RATES,
    STEPS,
    TEMPERATURE,
    WEIGHT,
    Arm,
    Measured,
    Stoppable,
    Trained,
    Weights,
    copied,
)
from benchmarks.peers.tiny_tasks import Files
from sft_lightning import __version__
from sft_lightning.cli.main import main
from sft_lightning.core.structures import Batch, Output
from sft_lightning.data.base import SFTDataModule
from sft_lightning.data.text import Instructions, TextTable
from sft_lightning.modules import L2SPSFT, DistillSFT, PlainSFT, SFTModule
from sft_lightning.networks import TransformersLM, TransformersText, spec
from sft_lightning.runs import load

name = "sft_lightning"
gathers = False
SETTINGS = {
    "classification": ["default"],
    "causal_lm": ["default"],
    "evaluation of classification": ["default"],
    "evaluation of causal_lm": ["default"],
    "distill": ["DistillSFT", "own variant: anchor, a sum", "own variant: anchor, a mean"],
    "l2sp": ["L2SPSFT", "own variant: add_penalty_grad"],
    "seeds": ["default"],
    "resume": ["default"],
}


def versions() -> dict[str, str]:
    return {"sft_lightning": __version__, **{package: version(package) for package in ("lightning", "torch")}}


def why(family: str, setting: str, arm: Arm) -> str:
    """One failure is the user's, and foreseen."""
    if setting == "own variant: anchor, a mean":
        return "against the contract: SFTModule.anchor_loss is to give a sum over items"
    return ""


# ---- losses as users write them ----


class OwnDistil(PlainSFT):
    """A user's own distillation: the one method that a variant adds, which gives a sum over items."""

    needs_pretrained = True

    def tokens(self, batch: Batch, output: Output) -> Tensor:
        """T² KL(teacher ‖ student) of each token."""
        said = F.log_softmax(output.logits / TEMPERATURE, -1)
        wanted = F.log_softmax(self.teacher_output(batch).logits / TEMPERATURE, -1)
        return F.kl_div(said, wanted, reduction="none", log_target=True).sum(-1) * TEMPERATURE**2

    def anchor_loss(self, batch: Batch, output: Output) -> Tensor:
        return WEIGHT * self.tokens(batch, output).sum()


class OwnDistilMean(OwnDistil):
    """The same against the contract: a mean, where a sum is asked for."""

    def anchor_loss(self, batch: Batch, output: Output) -> Tensor:
        return WEIGHT * self.tokens(batch, output).mean()


class OwnL2SP(PlainSFT):
    """A user's own L2-SP: its gradient, in the method for penalties on weights."""

    needs_pretrained = True

    def add_penalty_grad(self, optimizer: Optimizer) -> None:
        assert self.network is not None and self.teacher is not None
        for n, p in self.network.named_parameters():
            if p.grad is not None and p.ndim > 1:
                p.grad += ALPHA * (p.detach() - self.teacher.initial[n])


DISTIL = {"anchor_weight": WEIGHT, "on": "logits", "distance": "kl", "temperature": TEMPERATURE}
VARIANTS: dict[str, tuple[type[SFTModule], dict[str, Any]]] = {
    "default": (PlainSFT, {}),
    "DistillSFT": (DistillSFT, DISTIL),
    "own variant: anchor, a sum": (OwnDistil, {}),
    "own variant: anchor, a mean": (OwnDistilMean, {}),
    "L2SPSFT": (L2SPSFT, {"alpha": ALPHA, "beta": 0.0}),
    "own variant: add_penalty_grad": (OwnL2SP, {}),
}

# ---- set up ----


def module_of(arm: Arm, files: Files) -> SFTModule:
    cls, settings = VARIANTS[arm.setting]
    network = {"classification": TransformersText, "causal_lm": TransformersLM}[arm.task]
    given = {"optimizer": arm.optimizer, "lr": RATES[arm.optimizer]}
    return cls(spec(network, pretrained=files.model(arm.task)), **given, **settings)


def data_of(arm: Arm, files: Files, train: int, val: int) -> SFTDataModule:
    """In the order of the seed alone: not grouped by length, as Trainer's default is."""
    cls = {"classification": TextTable, "causal_lm": Instructions}[arm.task]
    where = {"train": files.data(arm.task, train), "val": files.data(arm.task, val)}
    sizes = {"batch_size": BATCH, "eval_batch_size": EVAL_BATCH, "group_by_length": False}
    return cls(**where, **sizes)


def trainer_of(arm: Arm, **settings: Any) -> Trainer:
    """A quiet trainer on one or two CPU processes."""
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    two: dict[str, Any] = {"strategy": "ddp", "devices": arm.processes} if arm.processes > 1 else {}
    precision = {"float64": "64-true", "float32": "32-true"}[arm.dtype]
    return Trainer(accelerator="cpu", precision=precision, **quiet, **two, **settings)


def theirs(module: LightningModule) -> dict[str, Tensor]:
    """The network's parameters under the names of the transformers model."""
    names: dict[str, Tensor] = {}
    text = isinstance(module.network, TransformersText)
    for n, p in module.network.named_parameters():
        part, _, rest = n.partition(".")
        if part == "encoder":
            names[rest if text else f"model.{rest}"] = p
        elif part == "head":
            names[f"classifier.{rest}" if text else f"lm_head.{rest}"] = p
    return names


class SameHead(Callback):
    """Gives the new head the weights of the folder's, so that all peers begin with the same weights."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def put(self, module: LightningModule) -> None:
        from safetensors.torch import load_file

        held, mine = load_file(Path(self.folder) / "model.safetensors"), theirs(module)
        with torch.no_grad():
            for n in (n for n in held if n.startswith("classifier.")):
                mine[n].copy_(held[n])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.put(pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate":
            self.put(pl_module)


class Recorder(Callback):
    """Fills a Trained."""

    def __init__(self) -> None:
        self.done = Trained({})
        self.pending: list[int] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.done.start = copied(theirs(pl_module).items())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.pending += batch["rows"] if batch["count"] else []
        if trainer.global_step > len(self.done.weights):
            self.done.rows.append(self.pending)
            self.pending = []
            named = theirs(pl_module)
            self.done.grads.append(copied((n, p.grad) for n, p in named.items()))
            self.done.weights.append(copied(named.items()))


# ---- what is asked ----


def train(arm: Arm, files: Files) -> Trained:
    seed_everything(arm.seed, verbose=False)
    recorder = Recorder()
    callbacks: list[Callback] = [SameHead(files.model(arm.task)), recorder]
    settings = {"max_steps": STEPS, "accumulate_grad_batches": arm.accumulate, "limit_val_batches": 0}
    trainer = trainer_of(arm, callbacks=callbacks, **settings)
    trainer.fit(module_of(arm, files), datamodule=data_of(arm, files, arm.rows, 5))
    return recorder.done


def evaluate(arm: Arm, files: Files) -> Measured:
    rows: list[int] = []

    class Count(Callback):
        def on_validation_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Output, batch: Batch, batch_idx: int, dataloader_idx: int = 0
        ) -> None:
            assert len(outputs.logits) == batch["count"]
            rows.extend(batch["rows"] if batch["count"] else [])

    seed_everything(arm.seed, verbose=False)
    trainer = trainer_of(arm, callbacks=[SameHead(files.model(arm.task)), Count()])
    (said,) = trainer.validate(module_of(arm, files), data_of(arm, files, 5, arm.rows), verbose=False)
    found = {k.removeprefix("val/"): float(v) for k, v in said.items() if k.startswith("val/")}
    return Measured(found.pop("loss"), found, rows)


def seeded(setting: str, seed: int, files: Files) -> Trained:
    """The head is always a new one."""
    seed_everything(seed, verbose=False)
    arm = Arm("classification", 37, dtype="float32", optimizer="AdamW", seed=seed)
    recorder = Recorder()
    network = spec(TransformersText, pretrained=files.model("classification", dropout=True))
    module = PlainSFT(network, lr=RATES["AdamW"])
    trainer = trainer_of(arm, callbacks=[recorder], max_steps=STEPS, limit_val_batches=0)
    trainer.fit(module, datamodule=data_of(arm, files, 37, 5))
    return recorder.done


# ---- stopping and going on ----

STOP = "PEERS_STOP"


class StopAt(Callback):
    """SIGTERM to itself at the step that the environment names."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == int(os.environ.get(STOP, "-1")):
            os.kill(os.getpid(), signal.SIGTERM)


def stoppable(how: Stoppable, files: Files) -> Weights:
    """`fit`, stopped by SIGTERM, then `fit --resume RUN_DIR` in a new process."""
    folder = Path(how.folder)
    run = folder / "resume" / "one"
    if how.part == "second":
        asked = ["--resume", str(run)]
    else:
        folder.mkdir(parents=True, exist_ok=True)
        where = {
            "train": files.data("classification", how.rows),
            "val": files.data("classification", 5),
            "labels": [str(i) for i in range(LABELS)],
        }
        sizes = {"batch_size": how.batch, "group_by_length": False, "num_workers": how.workers}
        network = {"pretrained": files.model("classification", dropout=True)}
        config = {
            "seed_everything": 0,
            "model": {"class_path": "PlainSFT", "init_args": {"lr": RATES["AdamW"], "lr_schedule": "linear"}},
            "network": {"class_path": "TransformersText", "init_args": network},
            "data": {"class_path": "TextTable", "init_args": {**where, **sizes}},
            "trainer": {
                "max_epochs": how.epochs,
                "accelerator": "cpu",
                "accumulate_grad_batches": how.accumulate,
                "callbacks": [{"class_path": "benchmarks.peers.ours.StopAt"}],
            },
        }
        path = folder / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        asked = ["--config", str(path), "--runs_dir", str(folder), "--experiment", "resume", "--run_id", "one"]
    if how.part == "first":
        os.environ[STOP] = str(how.stop)
    code = main(["fit", *asked, "--wandb", "disabled", "--quiet", "true"])
    wanted = 128 + signal.SIGTERM if how.part == "first" else 0
    if code != wanted:
        raise RuntimeError(f"exit code {code}, {wanted} expected")
    held = torch.load(load(run).files.last, weights_only=True)
    return copied((n, t) for n, t in held["state_dict"].items() if n.startswith("network."))
