"""Head warm-up: for the first optimizer steps new layers learn alone, and all else stands still.

As `freeze: all-but-head` for so many steps, to the bit, then everything trains: the warm-up step of Learning without Forgetting
(Li and Hoiem 2016, section 3), and the first half of LP-FT (Kumar et al. 2022; see callbacks/lpft.py).
"""

from sft_lightning.core.errors import UserError
from sft_lightning.modules.optim import warmup_steps
from sft_lightning.modules.trainable import TrainableSet


def check_new_alone(trainable: TrainableSet, who: str) -> None:
    """Raises UserError where to train new layers alone would train nothing, or all that is trained anyway."""
    if trainable.network.pretrained is None:
        raise UserError(
            who, "nothing is pretrained, so there is nothing to hold still", "set pretrained, or leave it out"
        )
    new = trainable.of("new")
    if not new:
        raise UserError(who, "no new layer is trained, so nothing could learn alone", "leave it out")
    if not trainable.allowed - new - trainable.of("source_head"):
        raise UserError(who, "all that is pretrained is frozen already", f"leave {who} out, or freeze less")


def head_warmup_steps(trainable: TrainableSet, head_warmup: float, total_steps: float) -> int:
    """`head_warmup` as a number of optimizer steps: a share of all if below 1. Raises UserError where it would do nothing,
    or where there would be nothing but warm-up.
    """
    if not head_warmup:
        return 0
    check_new_alone(trainable, "head_warmup")
    if total_steps == float("inf"):
        if head_warmup < 1:
            raise UserError(
                "model.head_warmup", "a share of all steps needs an end", "set trainer.max_epochs or trainer.max_steps"
            )
        return int(head_warmup)
    steps = warmup_steps(head_warmup, int(total_steps))
    if steps >= total_steps:
        raise UserError(
            "model.head_warmup",
            f"{steps} steps are all of the run's {int(total_steps)}",
            "use freeze: all-but-head, or fewer steps",
        )
    return steps
