"""Distances between the outputs of teacher and student. Shapes: N items, D dimensions.

Every distance takes `student_ND` and `teacher_ND` and returns one value per item, `[N]`, without reduction over
items: the caller sums, and divides by the number of items of the whole optimizer step. The teacher's tensor gets no
gradient. All use at least single precision, because squares and exponentials overflow in half precision.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sft_lightning.anchors.by_rows import AT_ONCE, kl_by_rows


def mse(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    """Squared Euclidean distance ‖s − t‖², summed over D. Zero if and only if equal."""
    student, teacher = at_least_single(student_ND, teacher_ND)
    return (student - teacher).square().sum(-1)


def kl(student_ND: Tensor, teacher_ND: Tensor, temperature: float = 1.0) -> Tensor:
    """T²·KL(softmax(t/T) ‖ softmax(s/T)) in nats.

    The T² keeps the gradient's size independent of T (Hinton, Vinyals, Dean 2015, section 2). With T=2 on a kept
    source head this is the anchor of Learning without Forgetting (Li and Hoiem 2016, eq. 3) up to the teacher's
    constant entropy and the factor T², which the paper leaves out. Large tensors, such as logits over a vocabulary, are
    computed a few rows at a time (see `by_rows.py`).
    """
    if student_ND.numel() > AT_ONCE and student_ND.ndim == 2:
        return kl_by_rows(student_ND, teacher_ND, temperature)
    mine, theirs = at_least_single(student_ND, teacher_ND)
    student, teacher = F.log_softmax(mine / temperature, dim=-1), F.log_softmax(theirs / temperature, dim=-1)
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1) * temperature**2


def bernoulli_kl(student_ND: Tensor, teacher_ND: Tensor, temperature: float = 1.0) -> Tensor:
    """T²·KL(σ(t/T) ‖ σ(s/T)) in nats for D independent yes-or-no outputs, summed over D.

    It is for multi-label heads, whose outputs are logits of one probability each.
    """
    student, teacher = (v / temperature for v in at_least_single(student_ND, teacher_ND))
    yes = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))
    no = (-teacher).sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return (yes + no).sum(-1) * temperature**2


def cosine(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    """1 − cos(s, t) = ½‖s/‖s‖ − t/‖t‖‖², in [0, 2]; does not depend on the length of s or t.

    The code uses the squared chord, because it is exactly 0, with gradient 0, if both are equal, while 1 − cos rounds to
    either side of 0.
    """
    mine, theirs = at_least_single(student_ND, teacher_ND)
    student, teacher = F.normalize(mine, dim=-1, eps=1e-8), F.normalize(theirs, dim=-1, eps=1e-8)
    return 0.5 * (student - teacher).square().sum(-1)


def at_least_single(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both in single precision, or in the student's if that is double; the teacher without gradient."""
    dtype = torch.promote_types(student.dtype, torch.float32)
    return student.to(dtype), teacher.detach().to(dtype)


DISTANCES: dict[str, Callable[..., Tensor]] = {"mse": mse, "kl": kl, "cosine": cosine}
"""Distances by option name; for multi-label outputs `kl` is `bernoulli_kl`"""
