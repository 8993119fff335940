"""Adds labels to a network without losing the old ones: losses over part of the labels, and an anchor on the old logits."""

from typing import Any, Literal

import torch
from torch import Tensor

from sft_lightning.anchors import DISTANCES
from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import Batch, Loss, Output
from sft_lightning.modules.base import SFTModule, check_choice
from sft_lightning.modules.bias_correction import fit_correction
from sft_lightning.networks.base import Network
from sft_lightning.networks.joint_head import JointHead
from sft_lightning.networks.spec import Spec
from sft_lightning.tasks import RowTask, Task, make_task
from sft_lightning.tasks.partial import covered_rows

OVER = ("all", "new", "own")
ROWS = ("all", "old", "new")
CORRECTIONS = ("none", "validation", "norms")


class ExtendSFT(SFTModule):
    """L = mean over items of ℓ(z, y) + λ·D(z_old, z⁰), with z⁰ the pretrained network's logits of the S old labels.

    Needs data with old and new labels (Extend). z has the S old logits, then the K new ones. ℓ of an item with a new label is
    the cross-entropy over all logits, or over the new ones alone, so that it does not push the old ones down. ℓ of an item
    with an old label (rehearsal) is over all logits, or with `own` over the old ones (separated softmax, Ahn et al. 2021).
    D = ‖z_old − z⁰‖² or T²·KL, as in Learning without Forgetting, on all items or on those of one group. With
    `old_labels: false, anchor_on: old` rehearsal is by logits alone (Dark Experience Replay, Buzzega et al. 2020, with the
    pretrained network's logits instead of those on the way).
    Where data of new labels say nothing of old ones, and the reverse (`covered`: tags, sets of labels, boxes), items of
    samples that are annotated for old labels alone are the old ones. Over all labels, ℓ takes what is not annotated as
    absent. The loss over new labels takes it as unknown for new items, `own` for all: with tags, O then stands for the sum
    of O and the tags of the other group (the unbiased cross-entropy of Cermelli et al. 2020, Modeling the Background); of
    sets and boxes, only labels that are annotated count. kl of tags compares the sum of O and new tags with the teacher's O,
    as there; so it is not 0 at the start, where new rows are fresh. Detectors have kl alone, of old classes and boxes at all
    places.
    The correction is z_new ← a·z_new + b in evaluation and in exports, never in training. `validation` solves a and b for the
    cross-entropy on the validation samples, old and new ones with equal total weight (bias correction, Wu et al. 2019, who
    hold samples out for it). `norms` makes the new rows as long as the old ones on average (weight aligning, Zhao et al. 2020).
    Limits: λ = 0 with `loss_over: all` and no correction is PlainSFT; at step 0, D = 0.
    Fidelity: safe default; the papers add labels in many steps.

    Args:
        network: The network, as class_path and init_args.
        loss_over: Logits in the loss: all; new (items with new labels: the new logits); own (each item: those of its group).
            With tags, those of the group, and the sum of O and the others.
        anchor_weight: λ, the weight of the anchor relative to the task's loss per item.
        anchor_on: Items with the anchor: all, old (rehearsed ones, and those of a pool) or new.
        distance: mse is ‖·‖² summed over the old labels; kl the divergence from teacher to student with the T² factor, which
            does not see a shift of all old logits (of sets, the sum of each label's divergence).
        temperature: T of kl.
        old_labels: Use the labels of rehearsed items; false leaves them to the anchor.
        correction: Correction of the new logits: none; validation (a scale and a shift, solved on validation); norms (a scale).
        **kwargs: How training is done; see PlainSFT.
    """

    anchor_settings = ("loss_over", "anchor_weight", "anchor_on", "distance", "temperature", "old_labels", "correction")
    needs_pretrained = True
    takes_unlabelled = True
    """Whether training samples may have the target −1, for no label: those of a pool"""

    def __init__(
        self,
        network: Spec | str,
        loss_over: Literal["all", "new", "own"] = "new",
        anchor_weight: float = 0.1,
        anchor_on: Literal["all", "old", "new"] = "all",
        distance: Literal["mse", "kl"] = "mse",
        temperature: float = 2.0,
        old_labels: bool = True,
        correction: Literal["none", "validation", "norms"] = "none",
        **kwargs: Any,
    ) -> None:
        super().__init__(network, **kwargs)
        self.save_hyperparameters()
        if not anchor_weight >= 0:
            raise UserError("model.anchor_weight", f"must not be negative, got {anchor_weight}")
        if not temperature > 0:
            raise UserError("model.temperature", f"must be above 0, got {temperature}")
        check_choice("loss_over", loss_over, OVER)
        check_choice("anchor_on", anchor_on, ROWS)
        check_choice("distance", distance, ("mse", "kl"))
        check_choice("correction", correction, CORRECTIONS)
        self._compared = list[Task]()  # the source task, if items are not rows
        self._pool = False  # whether some training samples have no label
        if not old_labels and (not anchor_weight or anchor_on == "new"):
            raise UserError(
                "model.old_labels",
                "false leaves old samples without a loss",
                "set anchor_weight and anchor_on, or true",
            )

    def check_network(self, network: Network) -> None:
        """Raises UserError unless the data say which labels are new."""
        if not network.joint:
            raise UserError("data", "have no new labels beside old ones, which ExtendSFT needs", "use the data Extend")
        if isinstance(self.objective, RowTask):
            return
        assert network.source_task is not None
        self._compared = [make_task(network.source_task)]
        for name, value in (("distance", "mse"), ("correction", "validation"), ("correction", "norms")):
            if self.hparams[name] == value and (name != "distance" or self.hparams["anchor_weight"]):
                problem = f"{value} is not for {network.task.name}, whose outputs are classes and boxes of many places"
                raise UserError(f"model.{name}", problem, f"use {'kl' if name == 'distance' else 'none'}")

    def on_fit_start(self) -> None:
        """Refuses settings about rehearsed samples if there are none."""
        super().on_fit_start()
        self._pool = getattr(getattr(self.trainer, "datamodule", None), "pool", None) is not None
        if self._pool and (not self.hparams["anchor_weight"] or self.hparams["anchor_on"] == "new"):
            raise UserError(
                "data.pool", "has no effect without an anchor on it", "set anchor_weight, and anchor_on all or old"
            )
        if self.hparams["correction"] != "none" and self.trainer.limit_val_batches == 0:
            raise UserError(
                "model.correction", "is solved in validation, and trainer.limit_val_batches is 0", "set it higher"
            )
        count = getattr(getattr(self.trainer, "datamodule", None), "old_and_unlabelled", lambda: (1, 0))
        old, unlabelled = count()
        for name, without, there in (("old_labels", False, old), ("anchor_on", "old", old + unlabelled)):
            if self.hparams[name] == without and not there:
                raise UserError(
                    f"model.{name}", "has no effect without old training samples", "set data.rehearse, or leave it out"
                )

    @property
    def joint(self) -> JointHead:
        """The head."""
        assert self.network is not None and isinstance(self.network.head, JointHead)
        return self.network.head

    @property
    def known(self) -> int:
        """S, the number of old labels."""
        assert self.info is not None
        return self.info.known

    # ---- the terms of the loss ----

    def task_loss(self, batch: Batch, output: Output) -> Loss:
        """ℓ summed over the micro-batch's items, and the number of all items, with or without a term."""
        task, known, over = self.objective, self.known, self.hparams["loss_over"]
        if over == "all" and self.hparams["old_labels"] and not self._pool:
            return task.loss(output, batch)
        if (covered := covered_rows(batch)) is not None:
            return Loss(self._loss_in_part(output, batch, covered), int(batch["count"]))
        assert isinstance(task, RowTask)
        logits, y = task.rows(output.logits, batch), batch["y"]
        new = y >= known
        old = (y >= 0) & ~new if self.hparams["old_labels"] else torch.zeros_like(new)
        mine, shift = (logits, 0) if over == "all" else (logits[:, known:], known)
        total = task.row_loss(mine[new], y[new] - shift)
        total = total + task.row_loss((logits[:, :known] if over == "own" else logits)[old], y[old])
        return Loss(total, int(batch["count"]))

    def _loss_in_part(self, output: Output, batch: Batch, covered: Tensor) -> Tensor:
        """ℓ summed over items whose annotation covers some labels alone."""
        new, over = covered[:, self.known :].any(1), self.hparams["loss_over"]
        in_part = {"all": torch.zeros_like(new), "new": new, "own": torch.ones_like(new)}[over]
        counts = covered.any(1) & (new | self.hparams["old_labels"])  # a pool's samples cover nothing
        return self.objective.loss_in_part(output, batch, covered | ~in_part[:, None], counts)

    def anchor_loss(self, batch: Batch, output: Output) -> Tensor | None:
        """λ·Σ D over the micro-batch's items."""
        hp = self.hparams
        if hp["anchor_weight"] == 0.0:
            return None
        task, known = self.objective, self.known
        if not isinstance(task, RowTask):
            return self._anchor_of_places(batch, output)
        student = task.rows(output.logits, batch)
        teacher = task.rows(self.teacher_output(batch).logits, batch)[:, :known]
        if hp["anchor_on"] != "all":
            covered = covered_rows(batch)
            old = batch["y"] < known if covered is None else ~covered[:, known:].any(1)
            chosen = old == (hp["anchor_on"] == "old")
            student, teacher = student[chosen], teacher[chosen]
        if hp["distance"] == "mse":
            each = DISTANCES["mse"](student[:, :known], teacher)
        else:
            divergence = task.divergence(task.of_old_labels(student, known), teacher, hp["temperature"])
            assert divergence is not None
            each = divergence
        weighted: Tensor = hp["anchor_weight"] * each.sum()
        return weighted

    def _anchor_of_places(self, batch: Batch, output: Output) -> Tensor:
        """λ·Σ D of detectors: over the candidates of each image, what the old classes' outputs and the boxes say."""
        hp, task = self.hparams, self.objective
        pair = [one.source_logits for one in task.pair(output, self.teacher_output(batch), batch)]
        assert pair[0] is not None and pair[1] is not None
        each = self._compared[0].divergence(pair[0], pair[1], hp["temperature"])
        covered = covered_rows(batch)
        assert each is not None and covered is not None
        if hp["anchor_on"] != "all" and len(covered):
            old = ~covered[:, self.known :].any(1)
            each = each.view(len(covered), -1)[old == (hp["anchor_on"] == "old")]
        weighted: Tensor = hp["anchor_weight"] * each.sum()
        return weighted

    # ---- the correction of the new logits ----

    def on_validation_epoch_start(self) -> None:
        """Solves the correction with the weights that are validated."""
        super().on_validation_epoch_start()
        if self.trainer.state.fn != "fit" or self.hparams["correction"] == "none":
            return
        head = self.joint
        if self.hparams["correction"] == "norms":
            old, new = (part.weight.detach().double().norm(dim=1).mean() for part in (head.old, head.new))
            head.correct(float(old / new), 0.0)
            return
        head.correct(1.0, 0.0)
        head.correct(*fit_correction(self, biased=head.new.bias is not None))
