"""Head warm-up: for the first optimizer steps, trains new layers alone and freezes everything else.

These steps equal `freeze: all-but-head` to the bit; after them everything trains. This is the warm-up step of Learning without
Forgetting (Li and Hoiem 2016, section 3), and the first half of LP-FT (Kumar et al. 2022; see callbacks/lpft.py).
"""

from sft_lightning.core.errors import UserError
from sft_lightning.modules.optim import warmup_steps
from sft_lightning.modules.trainable import TrainableSet


def check_new_alone(trainable: TrainableSet, who: str) -> None:
    """Raises UserError if training new layers alone would train nothing, or everything that trains anyway.

    `who` is the UserError's key: model.head_warmup, or a callback.
    """
    if trainable.network.pretrained is None:
        raise UserError(
            who, "nothing is pretrained, so nothing can be frozen", "set network.init_args.pretrained, or leave it out"
        )
    new = trainable.of("new")
    if not new:
        raise UserError(who, "no new layer is trained, so nothing could train alone", "leave it out")
    if not trainable.allowed - new - trainable.of("source_head"):
        raise UserError(who, "model.freeze freezes all pretrained weights already", "leave it out, or freeze less")


def head_warmup_steps(trainable: TrainableSet, head_warmup: float, total_steps: float) -> int:
    """`head_warmup` as a number of optimizer steps; below 1 it is a share of all. Raises UserError if it would have no effect,
    or would last the whole run.
    """
    if not head_warmup:
        return 0
    check_new_alone(trainable, "model.head_warmup")
    if total_steps == float("inf"):
        if head_warmup < 1:
            raise UserError(
                "model.head_warmup",
                f"{head_warmup} is a share of all steps, and the run has no end",
                "set trainer.max_epochs or trainer.max_steps",
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
