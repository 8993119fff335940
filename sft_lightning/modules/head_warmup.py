"""Head warm-up: for the first optimizer steps new layers learn alone, and what `pretrained` filled is held still.

As `freeze: all-but-head` for so many steps, to the bit, then everything trains: the warm-up step of Learning without Forgetting
(Li and Hoiem 2016, section 3), and the first half of LP-FT (Kumar et al. 2022).
"""

from sft_lightning.core.errors import UserError
from sft_lightning.modules.optim import warmup_steps
from sft_lightning.networks.base import Network


def head_warmup_steps(network: Network, head_warmup: float, total_steps: float) -> int:
    """`head_warmup` as a number of optimizer steps: a share of all if below 1. Raises UserError where it would do nothing,
    or where there would be nothing but warm-up.
    """
    if not head_warmup:
        return 0
    added, kept = network.added_parameters(), network.shared_parameters() | network.adapter_parameters()
    if network.pretrained is None:
        raise UserError(
            "head_warmup: nothing is pretrained, so there is nothing to hold still: set pretrained, or leave it out"
        )
    if not any(p.requires_grad for p in added.values()):
        raise UserError("head_warmup: no new layer is trained, so nothing could learn alone: leave it out")
    if not any(p.requires_grad for p in kept.values()):
        raise UserError("head_warmup: all that is pretrained is frozen already: leave head_warmup out, or freeze less")
    if total_steps == float("inf"):
        if head_warmup < 1:
            raise UserError(
                "head_warmup: a share of all steps needs an end: set trainer.max_epochs or trainer.max_steps"
            )
        return int(head_warmup)
    steps = warmup_steps(head_warmup, int(total_steps))
    if steps >= total_steps:
        raise UserError(
            f"head_warmup: {steps} steps are all of the run's {int(total_steps)}: use freeze: all-but-head, or fewer steps"
        )
    return steps


def hold_still(network: Network) -> None:
    """Takes the gradients of all but new layers away, so that the optimizer leaves them, and their state, as they are."""
    added = network.added_parameters()
    for name, parameter in network.named_parameters():
        if name not in added:
            parameter.grad = None
