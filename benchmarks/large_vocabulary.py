"""Peak memory and time of the loss and of distillation's kl on logits of a large vocabulary, by rows and by the plain formula.

Each case runs in a process of its own: student and teacher logits are made, then loss and gradient are computed. What the peak
of the process's memory grew by is given in copies of the student's logits in single precision, N·V·4 bytes. `given` are
student and teacher themselves, `worked` is what was added to compute value and gradient (the gradient itself is one copy, or
half of one in bfloat16).

Command: .venv/bin/python benchmarks/large_vocabulary.py
"""

import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

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


def peak() -> int:
    """The largest memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(how: str, what: str, dtype: torch.dtype) -> None:
    """Prints one case's line."""
    from sft_lightning.anchors.by_rows import kl_by_rows
    from sft_lightning.tasks.cross_entropy import summed_cross_entropy

    kl: Callable[..., Tensor] = kl_by_rows if how == "by rows" else plain_kl
    loss: Callable[..., Tensor] = summed_cross_entropy if how == "by rows" else plain_loss
    copy = ROWS * VOCABULARY * 4
    before = peak()
    torch.manual_seed(0)
    student, teacher = (torch.empty(ROWS, VOCABULARY, dtype=dtype).normal_() for _ in range(2))
    student.requires_grad_()
    y = torch.randint(VOCABULARY, (ROWS,))
    given, began = peak(), time.perf_counter()
    total = kl(student, teacher, 2.0).sum() if "kl" in what else student.new_zeros((), dtype=torch.float32)
    if "loss" in what:
        total = total + loss(student, y)
    (gradient,) = torch.autograd.grad(total, student)  # not a leaf in training: nothing is copied into `.grad`
    seconds = time.perf_counter() - began
    print(
        f"{what:9} {str(dtype).removeprefix('torch.'):9} {how:8} given {(given - before) / copy:4.1f}  "
        f"worked {(peak() - given) / copy:4.1f} copies  {seconds:5.2f} s  value {float(total.detach()):.2f}, gradient "
        f"{float(gradient.norm()):.4f}",
        flush=True,
    )


if __name__ == "__main__":
    if len(sys.argv) == 4:
        measure(sys.argv[1], sys.argv[2], getattr(torch, sys.argv[3]))
        sys.exit()
    for dtype in ("float32", "bfloat16"):
        for what in ("kl", "kl + loss"):
            for how in ("plain", "by rows"):
                subprocess.run([sys.executable, __file__, how, what, dtype], check=True)
