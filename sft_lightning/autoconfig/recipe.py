"""Default settings for each kind of network: learning rates, strengths, batch, epochs, arms.

The grids are starting points for tuning on validation. The headers of the files under experiments/ give their sources.
"""

from dataclasses import dataclass
from math import ceil
from typing import Any

GPU_STEPS = 5
"""Factor on `most_steps` on an accelerator"""
VALIDATIONS = 10


@dataclass(frozen=True)
class Recipe:
    """Settings to fine-tune a kind of network."""

    lr: tuple[float, ...]
    l2sp: dict[str, Any]
    strengths: tuple[float, ...]
    """Strengths of L2-SP: α in the loss, or λ if decoupled"""
    steps: int
    """Wanted number of optimizer steps"""
    most_steps: int
    """Most optimizer steps on a CPU, for large data"""
    epochs: tuple[int, int]
    """Fewest and most epochs"""
    batch: int
    """Largest batch, in samples of an optimizer step"""
    model: dict[str, Any]
    seeds: int = 5

    @property
    def strength(self) -> str:
        """The tuned argument of L2SPSFT."""
        return "decoupled_weight" if self.l2sp.get("how") == "decoupled" else "alpha"


LAST_BLOCK = [1e-4, 5e-4]
"""Learning rates of a language model's last block"""
TRANSFORMER: dict[str, Any] = {"weight_decay": 0.01, "lr_schedule": "linear", "warmup": 0.1}
RECIPES = {
    "small": Recipe(
        lr=(3e-4, 1e-3, 3e-3),
        l2sp={"beta": 0.0},
        strengths=(0.001, 0.01, 0.1),
        steps=400,
        most_steps=3000,
        epochs=(10, 80),
        batch=32,
        model={"lr_schedule": "constant"},
        seeds=10,
    ),
    "convolutional": Recipe(
        lr=(1e-4, 3e-4, 1e-3),
        l2sp={"beta": 0.01},
        strengths=(0.01, 0.1, 1.0),
        steps=300,
        most_steps=400,
        epochs=(3, 40),
        batch=32,
        model={"lr_schedule": "cosine", "warmup": 0.1},
    ),
    "transformer": Recipe(
        lr=(2e-5, 5e-5, 1e-4),
        l2sp={"how": "decoupled"},
        strengths=(10.0, 100.0, 1000.0),
        steps=300,
        most_steps=600,
        epochs=(3, 30),
        batch=32,
        model={**TRANSFORMER, "head_lr_factor": 20.0},
    ),
    "language model": Recipe(
        lr=(2e-5, 1e-4),
        l2sp={"how": "decoupled"},
        strengths=(30.0, 300.0),
        steps=100,
        most_steps=200,
        epochs=(1, 5),
        batch=8,
        model=TRANSFORMER,
    ),
    "encoder-decoder": Recipe(
        lr=(5e-5, 3e-4),
        l2sp={"how": "decoupled"},
        strengths=(10.0, 100.0),
        steps=300,
        most_steps=600,
        epochs=(1, 10),
        batch=16,
        model=TRANSFORMER,
    ),
    "network of speech": Recipe(
        lr=(1e-5, 5e-5),
        l2sp={"how": "decoupled"},
        strengths=(10.0, 100.0),
        steps=300,
        most_steps=600,
        epochs=(1, 20),
        batch=16,
        model=TRANSFORMER,
    ),
}


@dataclass(frozen=True)
class Length:
    """Length of a run and number of its validations."""

    batch_size: int
    trainer: dict[str, Any]
    steps: int
    validations: int


def length(recipe: Recipe, samples: int, gpu: bool, given: int | None = None) -> Length:
    """Batch size (the given one, if any), epochs and validations for a number of labelled samples.

    A run has whole epochs, unless one epoch alone exceeds the most steps.
    """
    batch = given or (recipe.batch if recipe.batch < 16 or samples >= 320 else 16 if samples >= 80 else 8)
    per_epoch, most = ceil(samples / batch), recipe.most_steps * (GPU_STEPS if gpu else 1)
    if per_epoch > most:
        every = most // VALIDATIONS
        return Length(batch, {"max_epochs": 1, "max_steps": most, "val_check_interval": every}, most, VALIDATIONS)
    fewest, longest = recipe.epochs
    epochs = min(max(ceil(recipe.steps / per_epoch), fewest), longest, max(1, most // per_epoch))
    if epochs >= VALIDATIONS:
        every = max(1, round(epochs / VALIDATIONS))
        epochs = ceil(epochs / every) * every
        trainer = {"max_epochs": epochs, "check_val_every_n_epoch": every}
        return Length(batch, trainer, epochs * per_epoch, epochs // every)
    times = times_within(per_epoch, max(1, round(VALIDATIONS / epochs)))
    trainer = {"max_epochs": epochs, **({"val_check_interval": per_epoch // times} if times > 1 else {})}
    return Length(batch, trainer, epochs * per_epoch, epochs * times)


def times_within(per_epoch: int, wanted: int) -> int:
    """How often to validate in an epoch, at most as often as wanted, so that the last time is near its end."""
    return max(n for n in range(1, min(wanted, per_epoch) + 1) if per_epoch % (per_epoch // n) <= per_epoch // 20)


def arms(
    recipe: Recipe,
    source_outputs: int | None,
    last_block: int | None,
    source_gives_values: bool = False,
    probed: bool = True,
    blocks: str = r"(\w+\.)?\w+",
) -> dict[str, dict[str, Any]]:
    """The default arms. The linear probe is solved in closed form and chooses its strength itself.

    All arms that train the whole network choose from the same learning rates.

    Args:
        recipe: The recipe for the kind of network.
        source_outputs: Outputs of the kept source head; None without one.
        last_block: Index of a language model's last block; None for networks with a new head.
        source_gives_values: Whether the source head outputs values, not probabilities.
        probed: Whether the linear probe solves the task; otherwise the new layers are trained on frozen ones.
        blocks: Regular expression of the module, below the encoder, whose numbered parts are the blocks.
    """
    on, strengths = anchor(source_outputs, last_block is not None, source_gives_values)
    lr, made = list(recipe.lr), {}
    if last_block is None and not probed:
        made["frozen"] = arm("PlainSFT", {"freeze": "all-but-head"}, {"model.lr": lr})
    elif last_block is None:
        made["linear_probe"] = arm("LinearProbe", {}, {})
    else:
        freeze = [rf"^(?!encoder\.{blocks}\.{last_block}\.)"]
        made["last_block"] = arm("PlainSFT", {"freeze": freeze}, {"model.lr": LAST_BLOCK})
    made["plain"] = arm("PlainSFT", {}, {"model.lr": lr})
    made["l2sp"] = arm("L2SPSFT", recipe.l2sp, {f"model.{recipe.strength}": list(recipe.strengths), "model.lr": lr})
    made["distill"] = arm("DistillSFT", on, {"model.anchor_weight": strengths, "model.lr": lr})
    return made


def arm(variant: str, settings: dict[str, Any], tune: dict[str, list[Any]]) -> dict[str, Any]:
    """An arm in the form of a study file."""
    made = {"set": {"model": {"class_path": variant, "init_args": dict(settings)}}}
    return {**made, "tune": tune} if tune else made


def anchor(source_outputs: int | None, shares_outputs: bool, gives_values: bool) -> tuple[dict[str, Any], list[float]]:
    """Returns (arguments of DistillSFT, anchor weights to choose from)."""
    if shares_outputs:
        return {"on": "logits", "distance": "kl", "temperature": 1.0}, [0.1, 1.0]
    if source_outputs is None:
        return {"on": "features", "distance": "cosine"}, [0.1, 1.0, 10.0]
    if gives_values:
        return {"on": "source_logits", "distance": "mse"}, [0.1, 1.0, 10.0]
    return {"on": "source_logits", "distance": "kl", "temperature": 2.0}, [0.1, 0.3, 1.0]
