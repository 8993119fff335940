"""Elastic Weight Consolidation: pulls each weight to its start, the more the source task depends on it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sft_lightning.anchors import add_fisher_gradient, fisher_penalty
from sft_lightning.core.errors import UserError
from sft_lightning.modules.base import SFTModule, check_choice
from sft_lightning.modules.fisher import fisher_diagonal
from sft_lightning.networks.adapters import Adapter
from sft_lightning.networks.base import Network
from sft_lightning.networks.spec import Spec
from sft_lightning.sharding.tensors import gathered, part_of

if TYPE_CHECKING:
    from sft_lightning.evaluation.source_data import SourceData

KEY = "fisher"


class EWCSFT(SFTModule):
    """L = L_task + (λ/2)·Σ F_i (w_i − w_i⁰)² over pretrained weights (Kirkpatrick et al. 2017, eq. 3).

    F is the diagonal of the source task's Fisher information at w⁰, through the kept source head or the shared outputs:
    F_i = E[(∂ log p(y|x) / ∂w_i)²] per item, each sample's gradient squared before the sum. It is computed once, at the
    start of a fit, on evenly drawn training samples of the source task (`retention`), the same in each run, without
    augmentation. Checkpoints keep it, exports do not.
    Limits: λ = 0 is PlainSFT, and needs no source data; the penalty is 0 at step 0. Anchored weights get no weight decay from
    the optimizer. Under plain SGD, keep learning rate × λ × largest F below 1. BatchNorm statistics are not anchored:
    see freeze_batchnorm_stats.
    Fidelity: paper-exact with `fisher: true` on all samples, trained by SGD at one learning rate; else safe default.

    Args:
        network: The network, as class_path and init_args.
        anchor_weight: λ, the strength of the penalty relative to the task's loss per item.
        fisher: true draws each label from the pretrained network's output, which gives the Fisher information; empirical
            takes the source data's own labels.
        fisher_samples: Number of training samples of the source task for F; null for all.
        **kwargs: How training is done; see PlainSFT.
    """

    anchor_settings = ("anchor_weight", "fisher", "fisher_samples")
    needs_pretrained = needs_source = True
    checkpoint_keys = (KEY,)

    def __init__(
        self,
        network: Spec | str,
        anchor_weight: float = 100.0,
        fisher: Literal["true", "empirical"] = "true",
        fisher_samples: int | None = 512,
        **kwargs: Any,
    ) -> None:
        super().__init__(network, **kwargs)
        self.save_hyperparameters()
        if not anchor_weight >= 0:
            raise UserError("model.anchor_weight", f"must not be negative, got {anchor_weight}")
        if fisher_samples is not None and fisher_samples < 1:
            raise UserError("model.fisher_samples", f"must be at least 1, got {fisher_samples}", "use null for all")
        check_choice("fisher", fisher, ("true", "empirical"))
        self.fisher: dict[str, Tensor] = {}
        """F of each pretrained parameter by name; set at the start of a fit"""
        self.items = 0
        """Number of source items in the mean F"""

    @property
    def fidelity(self) -> str:  # type: ignore[override]
        """The paper uses all samples of the source task, and SGD."""
        hp = self.hparams
        whole = hp["fisher"] == "true" and hp["fisher_samples"] is None
        plainly = hp["freeze"] is None and hp["ema_decay"] is None and hp["layer_decay"] == hp["head_lr_factor"] == 1.0
        return "paper-exact" if whole and plainly and hp["optimizer"] in ("SGD", "torch.optim.SGD") else "safe default"

    def check_network(self, network: Network) -> None:
        """Raises UserError if the network has no weight to anchor."""
        if not network.shared_parameters():
            raise UserError(
                "network.pretrained",
                "fills no parameter of the network, so EWCSFT has nothing to anchor",
                "choose other weights, or use PlainSFT",
            )

    def no_decay_names(self) -> set[str]:
        """Parameters with a penalty, which the optimizer's weight decay must spare."""
        assert self.network is not None
        anchored = self.network.shared_parameters() | self.network.adapter_parameters()
        return set(anchored) if self.hparams["anchor_weight"] else set()

    # ---- the Fisher information ----

    def prepare(self, source: "SourceData | None") -> None:
        """Computes F on the source data, unless a checkpoint holds it."""
        changed = self.source is not None and source is not self.source
        super().prepare(source)
        if not self.hparams["anchor_weight"]:
            return
        if source is None:
            raise UserError(
                "retention",
                "is not set, and EWCSFT computes the Fisher information on the source task's data",
                "set it, or use L2SPSFT, which needs no source data",
            )
        assert self.network is not None
        if changed or not self.fisher:
            self.move_teacher()
            self.fisher, self.items = fisher_diagonal(
                self, source, self.hparams["fisher"], self.hparams["fisher_samples"]
            )
        weights = self._weights()
        self.fisher = {n: part_of(f, weights[n]).to(weights[n].device) for n, f in self.fisher.items()}

    def kept_tensors(self) -> list[Tensor]:
        """F of each weight."""
        return list(self.fisher.values())

    # ---- the penalty ----

    def _weights(self) -> dict[str, nn.Parameter]:
        """w_S by name in the pretrained network."""
        assert self.network is not None
        return {self.network.renamed.get(n, n): p for n, p in self.network.shared_parameters().items()}

    def _adapters(self) -> list[tuple[Adapter, Callable[[Tensor], Tensor]]]:
        """Adapters that change an anchored weight by Δ, each with its penalty (λ/2)·Σ F·Δ²."""
        assert self.network is not None
        strength = 0.5 * self.hparams["anchor_weight"]

        def penalty(fisher: Tensor) -> Callable[[Tensor], Tensor]:
            return lambda delta: strength * (fisher * delta.square()).sum()

        moved = [a for a in self.network.adapters if a.trained and a.weight in self.fisher]
        return [(a, penalty(self.fisher[a.weight])) for a in moved]

    def _anchored(self) -> tuple[list[nn.Parameter], list[Tensor], list[Tensor]]:
        """w, w⁰ and F."""
        assert self.teacher is not None
        weights = self._weights()
        return (
            [weights[n] for n in self.fisher],
            self.teacher.initial_weights(list(self.fisher)),
            list(self.fisher.values()),
        )

    def add_penalty_grad(self, optimizer: Optimizer) -> None:
        """Adds λ·F·(w − w⁰) to the gradients."""
        if self.hparams["anchor_weight"]:
            add_fisher_gradient(*self._anchored(), self.hparams["anchor_weight"])
            for adapter, penalty in self._adapters():
                adapter.add_grad(penalty)

    def penalty_value(self) -> Tensor | None:
        """(λ/2)·Σ F·(w − w⁰)²."""
        of_weights = fisher_penalty(*self._anchored(), self.hparams["anchor_weight"])
        with torch.no_grad():
            return of_weights + sum(penalty(adapter.delta()) for adapter, penalty in self._adapters())

    def notes(self) -> list[str]:
        """Adds the number of items in F."""
        labels = "labels drawn" if self.hparams["fisher"] == "true" else "the data's labels"
        said = f"the Fisher information is the mean over {self.items:,} source items ({labels})"
        return super().notes() + ([said] if self.fisher else [])

    # ---- kept across a resume ----

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.fisher:
            checkpoint[KEY] = {"items": self.items, "diagonal": {n: gathered(f) for n, f in self.fisher.items()}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        held = checkpoint.get(KEY, {"items": 0, "diagonal": {}})
        self.fisher, self.items = dict(held["diagonal"]), held["items"]
