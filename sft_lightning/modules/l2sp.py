"""L2-SP: an L2 penalty towards the starting point instead of towards zero."""

from typing import Any, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from sft_lightning.anchors import add_l2sp_gradient, l2sp_penalty, pull_towards
from sft_lightning.core.errors import UserError
from sft_lightning.modules.base import SFTModule, check_choice
from sft_lightning.modules.optim import trained_as_published
from sft_lightning.modules.reference import DTYPES, ReferenceWeights, check_reference
from sft_lightning.networks.adapters import Adapter, squared_length
from sft_lightning.networks.base import Network
from sft_lightning.networks.spec import Spec


class L2SPSFT(SFTModule):
    """L = L_task + (α/2)‖w_S − w_S⁰‖² + (β/2)‖w_new‖² (Li, Grandvalet, Davoine 2018, eq. 2).

    w_S: weights that the pretrained network has too; w_new: the new head. `how: loss` is the paper's: it adds the penalty's
    gradient once per optimizer step, after unscaling, before clipping. `how: decoupled` pulls by
    w ← w − lr·λ·(w − w⁰) before the optimizer's step, as AdamW decays, so that Adam does not rescale the pull; then the
    new head has the optimizer's weight decay. The two strengths are different quantities: λ bounds the drift per weight
    under Adam near 1/λ, so useful values differ by orders of magnitude from α.
    Limits: strengths 0 are PlainSFT; the penalty on w_S is 0 at step 0. Anchored weights get no weight decay from the
    optimizer, so that two anchors do not compete. BatchNorm statistics are not anchored: see freeze_batchnorm_stats.
    Adapters (network.init_args.transforms): w_S is the effective weight w + Δ. The penalty is (α/2)‖Δ‖², with its gradient on
    the adapter's parameters; the decoupled pull is Δ ← (1 − lr·λ)·Δ.
    Fidelity: paper-exact with `penalise: weights, how: loss` under SGD with momentum, as in the paper; `all` with the same is
    the released code's mode 101; other optimizers and decoupled are safe default: Adam rescales the pull of each weight.

    Args:
        network: The network, as class_path and init_args.
        alpha: α, strength of the pull of pretrained weights to where they started, with how=loss; default 0.1, the
            released script's.
        beta: β, strength of the pull of new weights to zero, with how=loss; default 0.01, the released script's.
        decoupled_weight: λ, with how=decoupled: share of the drift taken back per step and unit of learning rate;
            default 10.
        penalise: weights spares biases and norms, as in the paper; all takes every parameter.
        how: loss adds the penalty's gradient; decoupled pulls beside the optimizer.
        reference_dtype: bf16 keeps the start w⁰ of anchored weights rounded to bfloat16, in half the memory, and pulls towards
            these values; null for the weights' own dtype.
        reference_offload: Keep the start of anchored weights in pinned memory of the host and copy it to the GPU in each step;
            the numbers stay the same.
        **kwargs: How training is done; see PlainSFT.
    """

    anchor_settings = ("alpha", "beta", "decoupled_weight", "penalise", "how", "reference_dtype")
    needs_pretrained = True

    def __init__(
        self,
        network: Spec | str,
        alpha: float | None = None,
        beta: float | None = None,
        decoupled_weight: float | None = None,
        penalise: Literal["weights", "all"] = "weights",
        how: Literal["loss", "decoupled"] = "loss",
        reference_dtype: Literal["bf16"] | None = None,
        reference_offload: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(network, **kwargs)
        self.save_hyperparameters()
        check_choice("penalise", penalise, ("weights", "all"))
        check_choice("how", how, ("loss", "decoupled"))
        if reference_dtype is not None:
            check_choice("reference_dtype", reference_dtype, tuple(DTYPES))
        if how == "loss" and decoupled_weight is not None:
            raise UserError(
                "model.decoupled_weight", "has no effect with how: loss", "set alpha and beta, or how: decoupled"
            )
        if how == "decoupled" and (alpha is not None or beta is not None):
            raise UserError(
                f"model.{'beta' if alpha is None else 'alpha'}",
                "has no effect with how: decoupled",
                "set decoupled_weight, or how: loss",
            )
        self.alpha = 0.0 if how == "decoupled" else 0.1 if alpha is None else alpha
        self.beta = 0.0 if how == "decoupled" else 0.01 if beta is None else beta
        self.decoupled_weight = 0.0 if how == "loss" else 10.0 if decoupled_weight is None else decoupled_weight
        for name in ("alpha", "beta", "decoupled_weight"):
            if getattr(self, name) < 0:
                raise UserError(f"model.{name}", f"must not be negative, got {getattr(self, name)}")
        self.resolved = {"alpha": self.alpha, "beta": self.beta, "decoupled_weight": self.decoupled_weight}
        self._sets: dict[str, dict[str, nn.Parameter]] = {}
        self._pairs: dict[Any, tuple[list[nn.Parameter], list[Tensor]]] = {}
        self._origin: object = None
        self.reference: ReferenceWeights | None = None
        """The start as steps read it, if not the teacher's own weights"""

    @property
    def fidelity(self) -> str:  # type: ignore[override]
        """The paper penalises weights in the loss, under SGD with momentum; the released code can take all parameters."""
        if self.hparams["how"] == "decoupled" or not trained_as_published(self.hparams):
            return "safe default"
        return "paper-exact" if self.hparams["penalise"] == "weights" else "reference-code"

    def _chosen(self, parameters: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        assert self.network is not None
        spared = self.network.no_decay_parameters() if self.hparams["penalise"] == "weights" else set()
        return {n: p for n, p in parameters.items() if n in self.trainable.allowed and n not in spared}

    def anchored(self) -> dict[str, nn.Parameter]:
        """The penalised part of w_S, by name: only weights that may be trained, since the others cannot drift."""
        assert self.network is not None
        if "anchored" not in self._sets:  # the choice is fixed once the network is built and frozen
            self._sets["anchored"] = self._chosen(self.network.shared_parameters())
        return self._sets["anchored"]

    def adapters(self) -> list[Adapter]:
        """Adapters that are trained now: their Δ is w_S − w_S⁰."""
        assert self.network is not None
        return [a for a in self.network.adapters if a.trained]

    def anchored_names(self) -> set[str]:
        """Names of all parameters that the pull may change in this run, including those not trained now."""
        assert self.network is not None
        return set(self.anchored()) | (self.network.adapter_parameters().keys() & self.trainable.allowed)

    def new(self) -> dict[str, nn.Parameter]:
        """The penalised part of w_new, by name."""
        assert self.network is not None
        if "new" not in self._sets:
            self._sets["new"] = self._chosen(self.network.new_parameters())
        return self._sets["new"]

    def configure_optimizers(self) -> Any:
        """Forgets the parameters of an earlier fit, because they may have been sharded since."""
        self._sets.clear()
        self._pairs.clear()
        return super().configure_optimizers()

    def no_decay_names(self) -> set[str]:
        """Parameters with a penalty, which the optimizer's weight decay must spare."""
        anchored = self.anchored_names() if self.alpha or self.decoupled_weight else set()
        return anchored | (set(self.new()) if self.beta else set())

    def start(self, names: list[str]) -> list[Tensor]:
        """w⁰ of anchored weights."""
        assert self.teacher is not None
        return self.teacher.initial_weights(names) if self.reference is None else self.reference.of(names)

    @property
    def changes_steps(self) -> bool:
        """Whether steps need the teacher, which a reference replaces."""
        return self.reference is None

    def _pair(self, names: tuple[str, ...] | None = None) -> tuple[list[nn.Parameter], list[Tensor]]:
        """Anchored weights, those of `names` that are trained now if given, and their w⁰: the same lists until one changes."""
        assert self.teacher is not None
        origin = self.teacher.initial if self.reference is None else self.reference
        if self._origin is not origin:
            self._origin = origin
            self._pairs.clear()
        key = names, self.trainable.trained
        if key not in self._pairs:
            anchored = self.anchored()
            chosen = list(anchored) if names is None else [n for n in names if n in anchored and n in key[1]]
            self._pairs[key] = [anchored[n] for n in chosen], self.start(chosen)
        return self._pairs[key]

    def add_penalty_grad(self, optimizer: Optimizer) -> None:
        """Adds α·(w − w⁰) and β·w_new to the gradients."""
        if self.alpha:
            add_l2sp_gradient(*self._pair(), self.alpha)
            for adapter in self.adapters():
                adapter.add_grad(lambda delta: 0.5 * self.alpha * delta.square().sum())
        if self.beta:
            add_l2sp_gradient(list(self.new().values()), None, self.beta)

    def before_step(self, optimizer: Optimizer) -> None:
        """The decoupled pull: w ← w − lr·λ·(w − w⁰), as AdamW decays."""
        if not self.decoupled_weight:
            return
        for group in optimizer.param_groups:
            pull_towards(*self._pair(tuple(group["names"])), group["lr"] * self.decoupled_weight)
        if adapters := self.adapters():
            lrs = {name: group["lr"] for group in optimizer.param_groups for name in group["names"]}
            for adapter in adapters:
                adapter.scale(1.0 - lrs[next(iter(adapter.parameters()))] * self.decoupled_weight)

    def on_fit_start(self) -> None:
        """Keeps the start in less memory, if asked."""
        super().on_fit_start()
        assert self.teacher is not None
        dtype, offload = self.hparams["reference_dtype"], self.hparams["reference_offload"]
        check_reference(self, dtype, offload)
        names = list(self.anchored()) if dtype is not None or offload else []
        if (dtype is not None or offload) and not names:
            raise UserError(
                f"model.{'reference_offload' if dtype is None else 'reference_dtype'}",
                "has no effect, since this run trains no pretrained weight whose start must be kept (adapters start at 0)",
                "leave it out",
            )
        start = dict(zip(names, self.teacher.initial_weights(names), strict=True))
        pulls = start and (self.alpha or self.decoupled_weight)
        self.reference = ReferenceWeights(start, dtype, offload) if pulls else None

    def kept_tensors(self) -> list[Tensor]:
        """The start in less memory."""
        return [] if self.reference is None else self.reference.tensors

    def on_train_start(self) -> None:
        """Refuses a pull that would overshoot the start."""
        for group in (g for o in self.trainer.optimizers for g in o.param_groups):
            share = group.get("initial_lr", group["lr"]) * self.decoupled_weight
            if share > 1 and any(n in self.anchored_names() for n in group["names"]):
                lr = group.get("initial_lr", group["lr"])
                raise UserError(
                    "model.decoupled_weight",
                    f"{self.decoupled_weight:g} × learning rate {lr:g} = {share:g} takes back more than the whole drift at "
                    "each step",
                    "keep the product below 1",
                )

    def penalty_value(self) -> Tensor | None:
        """(α/2)‖w_S − w_S⁰‖² + (β/2)‖w_new‖²; if decoupled, (λ/2)‖w_S − w_S⁰‖², which is not in the loss."""
        anchored, new = self.anchored(), self.new()
        start = self.start(list(anchored))
        strength = self.alpha or self.decoupled_weight
        value = l2sp_penalty(list(anchored.values()), start, strength)
        if adapters := self.adapters():
            value = value + 0.5 * strength * squared_length(adapters)
        return value + l2sp_penalty(list(new.values()), None, self.beta).to(value.device)

    def check_network(self, network: Network) -> None:
        """Raises UserError if the network has no weight to anchor."""
        if not network.shared_parameters():
            raise UserError(
                "network.pretrained",
                "fills no parameter of the network, so L2SPSFT has nothing to anchor",
                "choose other weights, or use PlainSFT",
            )
