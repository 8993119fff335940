"""What is trained: the workloads, with their sizes, and what `prepare` makes of each."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

ANCHORED = ("distill_features", "distill_source_logits", "l2sp_loss", "l2sp_decoupled")
USUAL = ("raw", "raw_fused", "fabric", "bare", "bare_again", "usual", "hf")
OURS = ("python", "cli")


@dataclass(frozen=True)
class Workload:
    """One network on one data set. A turn is a whole number of epochs, so that each turn has the same samples."""

    name: str
    title: str
    kind: str
    """'images', 'text' or 'lm': how samples become batches"""
    batch: int
    samples: int
    """Training samples; a multiple of `batch`"""
    epochs: int
    """Epochs in a turn"""
    rounds: tuple[int, int]
    """Turns of each arm: on one thread, and on all"""
    arms: tuple[str, ...]
    lr: float = 1e-3
    baseline: str = "bare"
    augment: tuple[str, ...] = ()
    saves: bool = False
    """Whether arms with checkpoints save one in each turn; otherwise no checkpoint falls into a turn"""
    memory: bool = False
    """Whether peak memory is a result"""
    check_steps: int = 5
    check_lr: float | None = None
    """Learning rate of the check, if not `lr`: where many gradients are 0 but for rounding, as in front of a batch norm, Adam's
    first steps make steps of full length of that rounding"""
    gib: float = 0.25
    """Memory of one arm's process over the start, roughly: without enough of it the workload is left out"""

    @property
    def steps(self) -> int:
        """Optimizer steps of a turn."""
        return self.epochs * (self.samples // self.batch)

    @property
    def again(self) -> str:
        """The arm that is the baseline once more."""
        return f"{self.baseline}_again"


WORKLOADS = {
    w.name: w
    for w in (
        Workload(
            "mlp", "MLP (64-128-64-10) on digits, batch 20", "images", 20, 1000, 8, (7, 3),
            (*USUAL, *OURS, *ANCHORED, "distill_cached"), saves=True,
        ),
        Workload(
            "lenet", "LeNet on CIFAR-10 with flip and crop, batch 64", "images", 64, 3200, 1, (5, 2),
            ("raw", "raw_batched", "fabric", "bare", "bare_again", "usual", "hf", "timm", *OURS, *ANCHORED),
            augment=("crop", "flip"), saves=True,
        ),
        Workload(
            "fixed", "LeNet on CIFAR-10 without augmentation, batch 64", "images", 64, 3200, 1, (5, 2),
            ("bare", "bare_again", "python", "distill_features", "distill_cached"),
        ),
        Workload(
            "minilm", "MiniLM on TREC, batch 32", "text", 32, 128, 1, (3, 1),
            (*USUAL, "hf_grouped", *OURS, "distill_features", "l2sp_loss", "l2sp_decoupled"),
            lr=5e-5, memory=True, check_steps=3, gib=0.7,
        ),
        Workload(
            "llama", "small llama with a vocabulary of 49,152 on Alpaca, batch 8", "lm", 8, 16, 1, (3, 1),
            ("raw", "raw_again", "raw_kl", "hf", "hf_grouped", "trl", "bare", "python", "cli", "packed", "distill_kl",
             "distill_features", "l2sp_loss", "l2sp_decoupled"),
            baseline="raw", memory=True, check_steps=3, gib=0.7,
        ),
        Workload(
            "smollm2", "SmolLM2-135M on Alpaca, batch 2", "lm", 2, 2, 1, (2, 1),
            ("raw", "raw_again", "python", "distill_kl", "l2sp_loss", "l2sp_decoupled"),
            lr=1e-4, baseline="raw", memory=True, check_steps=2, gib=2.6,
        ),
        Workload(
            "lite0", "EfficientNet-lite0 at 96 px on CIFAR-10 with flip, batch 20", "images", 20, 80, 1, (3, 1),
            ("raw", "bare", "bare_again", "hf", "timm", *OURS, *ANCHORED),
            lr=5e-4, augment=("flip",), check_steps=3, check_lr=5e-6, gib=0.4,
        ),
    )
}  # fmt: skip


@dataclass
class Prepared:
    """All that the arms of a workload share, made once by our own data module, so that all have the same samples."""

    weights: list[Tensor] | None
    """Initial parameters and buffers in the order of the reference model; None if `folder` holds all of them"""
    order: list[list[int]]
    """Samples of each batch of the check"""
    own: dict[str, Any]
    """`network` and `data` for our own arms, as in a config file"""
    classes: int = 0
    images: Tensor | None = None
    """`[N, C, H, W]` uint8"""
    targets: Tensor | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    ids: list[list[int]] = field(default_factory=list)
    """Tokens of each text"""
    labels: list[list[int]] = field(default_factory=list)
    """Of language models: the token at each position, −100 where it is not learned"""
    folder: str = ""
    """Transformers folder of the network and its tokenizer"""


class Missing(Exception):
    """Data or weights of a workload are not at hand; the message is one line."""
