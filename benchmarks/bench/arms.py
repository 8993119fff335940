"""The arms: what each is called in the results, and where it is."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from benchmarks.bench.job import Job


@dataclass(frozen=True)
class Arm:
    """One way to do a workload."""

    name: str
    title: str
    place: str
    """module:function, below benchmarks.bench"""
    does: str = "plain"
    """Arms with the same word must have the same losses in the check; empty for an arm that no other equals"""
    package: str = ""
    """What must be installed"""

    @property
    def own(self) -> bool:
        return self.place.startswith("own:")

    @property
    def absent(self) -> str:
        """Why it cannot run here; empty if it can."""
        return f"{self.package} is not installed" if self.package and find_spec(self.package) is None else ""

    def function(self) -> Callable[[Job], None]:
        module, _, name = self.place.partition(":")
        found: Callable[[Job], None] = getattr(import_module(f"benchmarks.bench.{module}"), name)
        return found


ARMS = {
    arm.name: arm
    for arm in (
        Arm("raw", "loop in plain torch", "loops:raw"),
        Arm("raw_again", "the same once more (A/A)", "loops:raw"),
        Arm("raw_fused", "loop, fused AdamW", "loops:raw_fused"),
        Arm("raw_batched", "loop, augmentation on whole batches", "loops:raw_batched"),
        Arm("raw_kl", "loop, KL in pieces of rows", "loops:raw_kl", does="kl"),
        Arm("fabric", "Fabric", "loops:fabric"),
        Arm("bare", "Lightning, bare", "of_lightning:bare"),
        Arm("bare_again", "the same once more (A/A)", "of_lightning:bare"),
        Arm("usual", "Lightning with self.log, CSVLogger, checkpoints", "of_lightning:usual"),
        Arm("hf", "Hugging Face Trainer", "of_huggingface:hf"),
        Arm("hf_grouped", "Hugging Face Trainer, grouped by length", "of_huggingface:hf_grouped"),
        Arm("trl", "TRL", "of_huggingface:trl", package="trl"),
        Arm("timm", "timm's step", "loops:timm", package="timm"),
        Arm("python", "ours, Python", "own:python"),
        Arm("cli", "ours, command line, W&B offline, all telemetry", "own:cli"),
        Arm("packed", "ours, Python, packing", "own:python"),
        Arm("distill_features", "ours, distillation of features", "own:python", does=""),
        Arm("distill_cached", "ours, distillation of features, the teacher's cached", "own:python", does=""),
        Arm("distill_source_logits", "ours, distillation of source logits", "own:python", does=""),
        Arm("distill_kl", "ours, distillation of logits by KL", "own:python", does="kl"),
        Arm("l2sp_loss", "ours, L2-SP in the loss", "own:python", does=""),
        Arm("l2sp_decoupled", "ours, L2-SP decoupled", "own:python", does=""),
    )
}
