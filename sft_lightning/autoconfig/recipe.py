"""Default settings by the kind of network: rates, strengths, batch, epochs, arms. Grids are starting points to be tuned on
validation; where they come from stands in the headers of the files under experiments/.
"""

from dataclasses import dataclass
from math import ceil
from typing import Any

GPU_STEPS = 5
"""On an accelerator, so many times the most steps"""
VALIDATIONS = 10


@dataclass(frozen=True)
class Recipe:
    """How a kind of network is tuned."""

    lr: tuple[float, ...]
    l2sp: dict[str, Any]
    strengths: tuple[float, ...]
    """Of L2-SP: α in the loss, or λ decoupled"""
    steps: int
    """Optimizer steps to aim at"""
    most_steps: int
    """Where few epochs of much data would take more, on a CPU"""
    epochs: tuple[int, int]
    """Fewest and most"""
    batch: int
    """Most samples of an optimizer step"""
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
}


@dataclass(frozen=True)
class Length:
    """How long a run is, and how often it validates."""

    batch_size: int
    trainer: dict[str, Any]
    steps: int
    validations: int


def length(recipe: Recipe, samples: int, gpu: bool) -> Length:
    """Batch, epochs and validations for so many labelled samples: enough steps, and not too many.

    Whole epochs, unless one alone has more than the most steps.
    """
    batch = recipe.batch if recipe.batch < 16 or samples >= 320 else 16 if samples >= 80 else 8
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
    wanted = max(1, round(VALIDATIONS / epochs))
    near_the_end = [n for n in range(1, min(wanted, per_epoch) + 1) if per_epoch % (per_epoch // n) <= per_epoch // 20]
    times = max(near_the_end)
    trainer = {"max_epochs": epochs, **({"val_check_interval": per_epoch // times} if times > 1 else {})}
    return Length(batch, trainer, epochs * per_epoch, epochs * times)


def arms(
    recipe: Recipe, source_outputs: int | None, last_block: int | None, source_gives_values: bool = False
) -> dict[str, dict[str, Any]]:
    """The default arms. The linear probe is solved, and chooses its strength by itself.

    Every arm that moves the whole network has the same learning rates to choose from.

    Args:
        recipe: Of the kind of network.
        source_outputs: Outputs of the kept source head; None where there is none.
        last_block: Of a language model, the number of its last block; None for networks with a new head.
        source_gives_values: The source head gives values, and no probabilities.
    """
    on, strengths = anchor(source_outputs, last_block is not None, source_gives_values)
    lr, made = list(recipe.lr), {}
    if last_block is None:
        made["linear_probe"] = arm("LinearProbe", {}, {})
    else:
        freeze = [rf"^(?!encoder\.(\w+\.)?\w+\.{last_block}\.)"]
        made["last_block"] = arm("PlainSFT", {"freeze": freeze}, {"model.lr": LAST_BLOCK})
    made["plain"] = arm("PlainSFT", {}, {"model.lr": lr})
    made["l2sp"] = arm("L2SPSFT", recipe.l2sp, {f"model.{recipe.strength}": list(recipe.strengths), "model.lr": lr})
    made["distill"] = arm("DistillSFT", on, {"model.anchor_weight": strengths, "model.lr": lr})
    return made


def arm(variant: str, settings: dict[str, Any], tune: dict[str, list[Any]]) -> dict[str, Any]:
    """An arm as a study file has it."""
    made = {"set": {"model": {"class_path": variant, "init_args": dict(settings)}}}
    return {**made, "tune": tune} if tune else made


def anchor(source_outputs: int | None, shares_outputs: bool, gives_values: bool) -> tuple[dict[str, Any], list[float]]:
    """What DistillSFT compares, and the weights to choose from."""
    if shares_outputs:
        return {"on": "logits", "distance": "kl", "temperature": 1.0}, [0.1, 1.0]
    if source_outputs is None:
        return {"on": "features", "distance": "cosine"}, [0.1, 1.0, 10.0]
    if gives_values:
        return {"on": "source_logits", "distance": "mse"}, [0.1, 1.0, 10.0]
    return {"on": "source_logits", "distance": "kl", "temperature": 2.0}, [0.1, 0.3, 1.0]
