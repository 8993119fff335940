"""Peak memory and time of the loss and of distillation's kl on logits of a large vocabulary, by rows and by the plain formula.

Memory is what torch allocates to compute value and gradient, beside the logits of student and teacher themselves. It is given
in copies of the logits in single precision, N·V·4 bytes. The gradient is one of these copies, or half of one in bfloat16.

Command: .venv/bin/python -m benchmarks.large_vocabulary
Result (torch 2.14 on a CPU; times not given, as other work ran beside, but by rows took 0.2 to 0.4 of the plain formula's):

    kl        float32   plain     7.0 copies
    kl        float32   by rows   1.4 copies
    kl + loss float32   plain     7.0 copies
    kl + loss float32   by rows   2.4 copies
    kl        bfloat16  plain     7.0 copies
    kl        bfloat16  by rows   0.9 copies
    kl + loss bfloat16  plain     7.0 copies
    kl + loss bfloat16  by rows   1.4 copies
"""

import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from sft_lightning.anchors.by_rows import kl_by_rows
from sft_lightning.tasks.cross_entropy import summed_cross_entropy

ROWS, VOCABULARY = 1024, 49_152
"""SmolLM2's vocabulary; 192 MiB in single precision"""


def plain_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The formula that `anchors.kl` uses for small outputs."""
    mine, theirs = student.float() / temperature, teacher.detach().float() / temperature
    divergence = F.kl_div(F.log_softmax(mine, -1), F.log_softmax(theirs, -1), reduction="none", log_target=True)
    return divergence.sum(-1) * temperature**2


def plain_loss(logits: Tensor, y: Tensor) -> Tensor:
    """The formula of the loss for small outputs."""
    return F.cross_entropy(logits.float(), y, reduction="sum")


def gradient_of(
    kl: Callable[..., Tensor], loss: Callable[..., Tensor] | None, student: Tensor, teacher: Tensor, y: Tensor
) -> Tensor:
    """The student's gradient of kl, and of the loss if there is one."""
    total = kl(student, teacher, 2.0).sum()
    if loss is not None:
        total = total + loss(student, y)
    return torch.autograd.grad(total, student)[0]


def peak(run: Callable[[], Tensor]) -> tuple[float, float, Tensor]:
    """(largest memory allocated while it runs, in copies; seconds; its result)."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        began = time.perf_counter()
        result = run()
        seconds = time.perf_counter() - began
    held = most = 0
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most / (ROWS * VOCABULARY * 4), seconds, result


def main() -> None:
    """Prints a line for each precision, term and way."""
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        student, teacher = (torch.empty(ROWS, VOCABULARY, dtype=dtype).normal_() for _ in range(2))
        student.requires_grad_()
        y = torch.randint(VOCABULARY, (ROWS,))
        for what in ("kl", "kl + loss"):
            for how, kl, loss in (("plain", plain_kl, plain_loss), ("by rows", kl_by_rows, summed_cross_entropy)):
                copies, seconds, gradient = peak(
                    partial(gradient_of, kl, loss if what != "kl" else None, student, teacher, y)
                )
                length, kind = float(gradient.float().norm()), str(dtype).removeprefix("torch.")
                print(
                    f"{what:9} {kind:9} {how:8} {copies:4.1f} copies  {seconds:5.2f} s  gradient {length:.5f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
