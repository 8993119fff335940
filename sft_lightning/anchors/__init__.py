"""Anchors: terms that tie the student to the pretrained network, as pure functions of tensors.

One function serves as training loss and as logged metric. The package imports only torch and the helpers for sharded tensors.
"""

from sft_lightning.anchors.cka import CKASums, linear_cka
from sft_lightning.anchors.fisher import add_fisher_gradient, add_squares, fisher_penalty
from sft_lightning.anchors.function_space import DISTANCES, bernoulli_kl, cosine, kl, mse
from sft_lightning.anchors.weight_space import add_l2sp_gradient, l2sp_penalty, pull_towards

__all__ = [
    "DISTANCES",
    "CKASums",
    "add_fisher_gradient",
    "add_l2sp_gradient",
    "add_squares",
    "bernoulli_kl",
    "cosine",
    "fisher_penalty",
    "kl",
    "l2sp_penalty",
    "linear_cka",
    "mse",
    "pull_towards",
]
