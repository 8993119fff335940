"""The linear probe: solves for the new head on frozen pretrained features."""

from contextlib import ExitStack
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import Batch
from sft_lightning.modules.base import SFTModule
from sft_lightning.modules.frozen_features import features, measured, scaling
from sft_lightning.modules.one_step import one_step
from sft_lightning.modules.solve import Linear, Solution, best_of, end_of, path, solve, zeros
from sft_lightning.networks.base import Network
from sft_lightning.networks.spec import Spec
from sft_lightning.sharding.strategy import FSDP2
from sft_lightning.tasks import TASKS, RowTask

STRENGTHS = tuple(10.0 ** (e / 2) for e in range(-6, 7))  # 0.001 to 1000


class LinearProbe(SFTModule):
    """min over W, b of Σ L_task(W·f_θ⁰(x) + b, y) + (λ/2)‖W‖², the sum over all training samples: solved, not trained.

    Logistic regression for classes, ridge regression for values, on the pretrained network's features, which are
    computed once as in validation (evaluation mode, no augmentation). L-BFGS in double precision converges, so the run
    has one step and no learning rate. Validation chooses λ: by the metric, then by the lower
    loss. G. Alain and Y. Bengio, Understanding intermediate layers using linear classifier probes (2016).

    Fidelity: safe default (the papers that probe differ in λ and scaling). Limits: the encoder is frozen, so
    retention is the pretrained network's and drift is 0, by construction; λ → ∞ leaves only the bias.

    Args:
        network: The network, as class_path and init_args (`spec(MLP, ...)` in Python).
        task: What is predicted (name, num_outputs, labels); follows from the data when not given.
        strengths: Values of λ to choose from, for the loss summed over samples, and for features whose mean variance
            is 1; default 0.001 to 1000 in 13 steps, extended while the best lies at an end.
        standardise: Divide each feature by its own standard deviation over the training samples, instead of all by one number.
    """

    anchor_settings: ClassVar[tuple[str, ...]] = ("strengths", "standardise")
    needs_pretrained = True
    solves = True

    def __init__(
        self,
        network: Spec | str,
        task: dict[str, Any] | None = None,
        strengths: list[float] | None = None,
        standardise: bool = False,
    ) -> None:
        super().__init__(network, task, freeze="all-but-head")
        given = STRENGTHS if strengths is None else strengths
        if not given or len(set(given)) < len(given) or not all(0 <= s < float("inf") for s in given):
            raise UserError("model.strengths", f"must be distinct numbers of at least 0, got {strengths}")
        self._undo = ExitStack()

    def check_network(self, network: Network) -> None:
        """Raises UserError unless features are pretrained, and the head is a new unsharded linear layer for a row task."""
        if network.shares_outputs:
            raise UserError(
                "model",
                "LinearProbe has no new head to solve for: a language model, as all that write texts, keeps its output layer",
                "use PlainSFT with freeze",
            )
        if network.adapters:
            raise UserError(
                "network.transforms",
                "have no effect with LinearProbe, because it solves for the head alone",
                "leave them out",
            )
        if not issubclass(TASKS.find(network.task.name), RowTask):
            raise UserError(
                "model",
                f"LinearProbe needs a task with one target per row, and the data's task is {network.task.name}",
                "use PlainSFT with freeze",
            )
        if fresh := [n for n in network.new_parameters() if not n.startswith("head.")]:
            raise UserError(
                "network.pretrained",
                f"does not fill {fresh[0]}, and a LinearProbe through a random layer is meaningless",
                "choose another network.init_args.pooling, or weights that have this layer",
            )
        if not isinstance(network.head, nn.Linear):
            raise UserError(
                "model",
                f"LinearProbe needs a head of one linear layer, and the network's is a {type(network.head).__name__}",
                "use PlainSFT with freeze: all-but-head",
            )
        if self._trainer is not None and isinstance(self._trainer.strategy, FSDP2):
            raise UserError("trainer.strategy", "fsdp2 does not work with LinearProbe", "use ddp or one process")

    def setup(self, stage: str) -> None:
        """Limits the trainer to one epoch of one step."""
        super().setup(stage)
        if stage == "fit":
            self._undo.enter_context(one_step(self.trainer, "LinearProbe"))

    def teardown(self, stage: str) -> None:
        """Restores the trainer's settings."""
        self._undo.close()

    def configure_optimizers(self) -> Optimizer:
        """An optimizer that changes nothing, because `on_train_start` writes the solution into the head."""
        names = [f"head.{n}" for n, _ in self.head.named_parameters()]
        group = {"params": list(self.head.parameters()), "names": names, "lr": 0.0}
        return torch.optim.SGD([group], lr=0.0)

    def on_train_start(self) -> None:
        """Solves and writes the head, after all measurements before training. A resumed run has the solution already."""
        if self.trainer.global_step > 0:
            return
        layer: Linear = self.trainer.strategy.broadcast(self._solve())
        head = self.head
        with torch.no_grad():
            for parameter, value in ((head.weight, layer.weight), (head.bias, layer.bias)):
                if value is not None:
                    parameter.copy_(value)

    @property
    def head(self) -> nn.Linear:
        """The network's head."""
        assert self.network is not None and isinstance(self.network.head, nn.Linear)
        return self.network.head

    def _solve(self) -> Linear:
        """The layer that is best on validation, for unscaled features; puts the details of the search into `found`."""
        assert self.task is not None
        head, given, task = self.head, self.hparams["strengths"], self.task
        train, val = features(self, "train"), features(self, "val")
        x, y, batch = train.x, train.y, train.batch
        mean, scale = scaling(x, self.hparams["standardise"])
        if head.bias is None:
            mean = torch.zeros_like(mean)  # without a bias, the layer cannot undo a shift
        x, val_x = (x - mean) / scale, (val.x - mean) / scale
        name, sign = self.chosen_by()

        def loss(logits: Tensor, y: Tensor) -> Tensor:
            assert isinstance(self.objective, RowTask)
            return self.objective.row_loss(self.objective.rows(logits, batch), y)

        def at(strength: float, start: Linear | None) -> Solution:
            start = start or zeros(head.out_features, x.shape[1], head.bias is not None, x)
            solved = solve(x, y, loss, start, strength)
            values = measured(task, solved.layer(val_x), val)
            return replace(solved, metric=sign * values[name], val_loss=values["loss"])

        found = path(given or STRENGTHS, given is None, at)
        best = best_of(found)
        self.found = {"by": f"val/{name}", "n": len(y), "val_n": len(val.y), **best.plain(), "at_end": end_of(found)}
        if not self.hparams["standardise"] and best.strength:
            self.found["C"] = 1 / (best.strength * float(scale[0]) ** 2)  # scikit-learn's C, for unscaled features
        self.found["tried"] = [{"strength": s.strength, "loss": s.val_loss, name: sign * s.metric} for s in found]
        weight = best.layer.weight / scale
        bias = None if best.layer.bias is None else best.layer.bias - weight @ mean
        return Linear(weight, bias)

    def chosen_by(self) -> tuple[str, int]:
        """The metric for λ (select_by if it is of validation, else the task's first) and its sign, 1 if more is better.

        Raises UserError for one that is measured beside the task's own, such as calibration.
        """
        assert self.task is not None
        stage, _, name = (self.select_by or "").partition("/")
        if stage == "val" and name not in ("loss", *self.task.metric_names):
            fix = f"use val/loss, or val/{self.task.primary.name}"
            raise UserError("select_by", f"'{self.select_by}' cannot choose the strength of LinearProbe", fix)
        if stage != "val":
            name = self.task.primary.name
        found = self.task.metric_info(name)
        assert found is not None
        return name, found.sign

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """A loss of 0 for any batch, with gradient 0, so that the step changes nothing."""
        self._sums = torch.zeros(2, device=self.device)
        return torch.stack([(p * 0.0).sum() for p in self.head.parameters()]).sum()

    def _log_step(self, sums: Tensor, count: float, optimizer: Optimizer) -> None:
        loss = self.found["loss"]
        values = {"train/loss": loss, "train/loss_task": loss, "train/items": float(self.found["n"])}
        self.log_dict(values, on_step=True, on_epoch=False, logger=False)
        for logger in self.trainer.loggers:
            logger.log_metrics({**values, "epoch": 0.0}, step=1)

    def said(self) -> str:
        """One line on the solution."""
        found, name = self.found, self.found["by"].partition("/")[2]
        value = next(t[name] for t in found["tried"] if t["strength"] == found["strength"])
        end = f", the {found['at_end']} of {len(found['tried'])} tried" if found["at_end"] else ""
        how = f"{found['steps']} steps of L-BFGS" + ("" if found["converged"] else ", not converged")
        return f"strength {found['strength']:.3g}{end}, by {found['by']} {value:.4f}; {found['n']:,} samples, {how}"
