"""KL divergence to a teacher of whom only the k largest outputs are known, and how much the rest holds together.

The rest is one bucket, for the teacher and for the student: k + 1 outcomes instead of D. By the chain rule of KL this is the
whole divergence minus p_rest·KL(teacher's rest ‖ student's rest), where both rests are normalised. So it is never above the
whole divergence, and exact where the rests have the same shape. At the start, where student and teacher are equal, it is 0.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def top_k_of(logits_ND: Tensor, k: int, temperature: float) -> Tensor:
    """`[N, 2k + 1]` in single precision: the k largest logits, their places, and the logit of the rest as one outcome.

    That is T·log Σ exp(t/T) over the rest, which depends on the temperature T. Places are exact below 2²⁴.
    """
    logits = logits_ND.detach().float()
    values, places = logits.topk(k, dim=-1)
    rest = logits.scatter(-1, places, -torch.inf).div_(temperature).logsumexp(-1, keepdim=True) * temperature
    return torch.cat([values, places.to(values.dtype), rest], -1)


def top_k_kl(student_ND: Tensor, top_NK: Tensor, temperature: float) -> Tensor:
    """T²·KL in nats over k + 1 outcomes, for each item: `[N]`. `top_NK` is what `top_k_of` returned."""
    k = (top_NK.shape[-1] - 1) // 2
    places = top_NK[:, k : 2 * k].long()
    teacher = F.log_softmax(torch.cat([top_NK[:, :k], top_NK[:, -1:]], -1) / temperature, -1)
    mine = student_ND.to(torch.promote_types(student_ND.dtype, torch.float32)) / temperature
    rest = mine.scatter(-1, places, -torch.inf).logsumexp(-1, keepdim=True)
    student = F.log_softmax(torch.cat([mine.gather(-1, places), rest], -1), -1)
    return F.kl_div(student, teacher.to(student.dtype), reduction="none", log_target=True).sum(-1) * temperature**2
