"""Distillation-anchored fine-tuning: keeps the pretrained network's outputs on the new inputs."""

from contextlib import nullcontext
from math import isclose
from typing import Any, Literal

import torch
from torch import Tensor

from sft_lightning.anchors import DISTANCES
from sft_lightning.anchors.by_rows import spared
from sft_lightning.anchors.top_k import top_k_kl
from sft_lightning.core import cache
from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import Batch, Items, Output
from sft_lightning.core.wording import plural
from sft_lightning.modules.base import SFTModule, check_choice
from sft_lightning.modules.optim import trained_as_published
from sft_lightning.modules.reference import DTYPES, ReferenceNetwork, check_reference
from sft_lightning.modules.teacher_cache import TeacherCache
from sft_lightning.modules.teacher_cache_begun import begin, check_form
from sft_lightning.networks.base import Network
from sft_lightning.networks.spec import Spec
from sft_lightning.networks.tensors import layers_of
from sft_lightning.tasks import Task, make_task


class DistillSFT(SFTModule):
    """L = L_task + λ·mean over items of D(f_θ⁰(x), f_θ(x)), f_θ⁰ the frozen pretrained network on the same view.

    Learning without Forgetting (Li and Hoiem 2016, eq. 1–4) as published is `on: source_logits, distance: kl, temperature: 2,
    anchor_weight: 0.25, train_source_head: true`, a `head_warmup`, and `optimizer: SGD` with momentum: kl has Hinton's T²
    factor here, which the LwF paper leaves out, so its λ_o = 1 is 1/T². experiments/digits/lwf.yaml is that configuration.
    Limits: λ = 0 is PlainSFT. At step 0, D = 0, and its gradient is 0 for mse and kl, if dropout is off and BatchNorm
    statistics are frozen (`freeze_batchnorm_stats`); otherwise student and teacher differ in training.
    Fidelity: paper-exact for exactly that configuration; reference-code for kl with a trained source head but another
    strength, another optimizer or no warm-up (as in continual-learning libraries); safe default otherwise.

    Args:
        network: The network, as class_path and init_args.
        anchor_weight: λ, the weight of the anchor relative to the task's loss per item.
        on: What is compared: the kept source head's logits, the features, or the logits if the output space is the
            pretrained one (language models); auto takes logits for language models, else source_logits if there are
            some, else features.
        distance: mse is ‖·‖² summed over dimensions, kl the divergence from teacher to student with the T² factor,
            cosine 1 − cos. An item with several rows of features, such as a question's choices or tokens, counts with
            their mean. For a multi-label source head kl is summed over labels, and for choices it compares one distribution;
            a source head of values (regression, rerankers, reward models) cannot use kl, nor cosine if it has one output.
        temperature: T of kl.
        train_source_head: Train the kept source head too, towards its former outputs, as LwF does; for on source_logits.
        teacher_cache: Compute the teacher's output on a sample once, if samples look the same in each epoch: kept in memory
            for this fit, or on disk for later fits of the same teacher and data too. The bits are those of none.
        teacher_cache_dtype: bf16 keeps the cached outputs that are compared rounded to bfloat16, in half the memory; the anchor
            compares with the rounded ones; null for the exact ones.
        teacher_cache_top_k: For kl of classes: keep only the k largest cached outputs and compare the rest as one outcome;
            null for all of them.
        reference_dtype: bf16 computes the teacher's outputs for the anchor in bfloat16, with half the memory for its weights;
            null for the student's dtype.
        **kwargs: How training is done; see PlainSFT.
    """

    anchor_settings = (
        *("anchor_weight", "on", "distance", "temperature", "train_source_head"),
        *("reference_dtype", "teacher_cache_dtype", "teacher_cache_top_k"),
    )
    needs_pretrained = True

    def __init__(
        self,
        network: Spec | str,
        anchor_weight: float = 1.0,
        on: Literal["auto", "source_logits", "features", "logits"] = "auto",
        distance: Literal["mse", "kl", "cosine"] = "mse",
        temperature: float = 2.0,
        train_source_head: bool = False,
        teacher_cache: Literal["none", "memory", "disk"] = "none",
        teacher_cache_dtype: Literal["bf16"] | None = None,
        teacher_cache_top_k: int | None = None,
        reference_dtype: Literal["bf16"] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(network, **kwargs)
        self.save_hyperparameters()
        if anchor_weight < 0:
            raise UserError("model.anchor_weight", f"must not be negative, got {anchor_weight}")
        if temperature <= 0:
            raise UserError("model.temperature", f"must be above 0, got {temperature}")
        check_choice("on", on, ("auto", "source_logits", "features", "logits"))
        check_choice("distance", distance, tuple(DISTANCES))
        check_choice("teacher_cache", teacher_cache, ("none", "memory", "disk"))
        for name, dtype in (("reference_dtype", reference_dtype), ("teacher_cache_dtype", teacher_cache_dtype)):
            if dtype is not None:
                check_choice(name, dtype, tuple(DTYPES))
        check_form(self.hparams)
        self.reference: ReferenceNetwork | None = None
        """The teacher in another dtype, if that is asked"""
        self.cached: TeacherCache | None = None
        """The teacher's outputs on training samples, while a fit keeps them"""
        self.on: str = on
        self._compared: Task | None = None  # the task whose outputs are compared, which defines kl

    @property
    def fidelity(self) -> str:  # type: ignore[override]
        """LwF is published, and often used with other strengths; all other configurations are our own."""
        hp = self.hparams
        if not (hp["distance"] == "kl" and hp["train_source_head"] and hp["anchor_weight"]):
            return "safe default"
        strength = hp["anchor_weight"] * hp["temperature"] ** 2
        published = hp["temperature"] == 2 and isclose(strength, 1.0) and hp["head_warmup"] > 0
        return (
            "paper-exact" if published and trained_as_published(hp) and not hp["label_smoothing"] else "reference-code"
        )

    def check_network(self, network: Network) -> None:
        """Settles `on`, and raises UserError if student and teacher cannot be compared as asked."""
        if self.on == "auto":
            self.on = "logits" if network.shares_outputs else "source_logits" if network.source_head else "features"
        self.resolved["on"] = self.on
        if self.on == "source_logits" and network.source_head is None:
            raise UserError(
                "model.on",
                "source_logits needs a pretrained output layer, and the pretrained weights lack it, or keep_source_head is "
                "false",
                "use on: features",
            )
        if self.hparams["train_source_head"]:
            self._train_source_head(network)
        if self.on == "logits" and not network.shares_outputs:
            raise UserError(
                "model.on",
                "logits needs the pretrained output space, and this network's head is new",
                "use source_logits or features",
            )
        if self.on == "features" and not network.pretrained_below_new:
            raise UserError(
                "model.on",
                "features compares outputs of pretrained layers, and the encoder begins with layers that "
                f"{network.pretrained} did not fill ({layers_of(network.fresh)})",
                "use PlainSFT or L2SPSFT, or weights that have these layers",
            )
        if self.on == "features" and self.hparams["distance"] == "kl":
            raise UserError("model.distance", "kl compares probabilities, but on is features", "use mse or cosine")
        self._check_source(network)

    def _check_source(self, network: Network) -> None:
        """Refuses distances that are always 0, or meaningless, for the source head's outputs."""
        task, kind = network.source_task if self.on == "source_logits" else network.task, self.hparams["distance"]
        if self.on == "features" or task is None:
            return
        self._compared = make_task(task)
        logits = torch.zeros(1, self._compared.width)
        if kind == "kl" and self._compared.divergence(logits, logits) is None:
            outputs = plural(task.num_outputs or 1, "output")
            raise UserError(
                "model.distance",
                f"kl compares probabilities, and the source head's {outputs} (of {task.name}) are values",
                "use distance mse, or on: features",
            )
        if self._compared.width == 1 and kind == "cosine":
            raise UserError(
                "model.distance",
                "cosine of a single output does not depend on its size",
                "use distance mse, or on: features",
            )

    def _train_source_head(self, network: Network) -> None:
        """Lets the source head train; the teacher has its own copy already. At λ = 0 nothing trains it, so it stays frozen."""
        if self.on != "source_logits":
            raise UserError(
                "model.train_source_head",
                f"has no effect with on: {self.on}",
                "set it to false, or use on: source_logits",
            )
        if network.joint:
            raise UserError(
                "model.train_source_head",
                "has no effect where old labels are rows of the head, which are trained",
                "leave it out",
            )
        if self.hparams["freeze"] == "all-but-head":
            raise UserError(
                "model.train_source_head", "freeze: all-but-head freezes the source head too", "drop one of the two"
            )
        assert network.source_head is not None
        if self.hparams["anchor_weight"] > 0:
            self.trainable.allow(network.parameter_sets()["source_head"])

    def on_fit_start(self) -> None:
        """Makes the reference in its dtype, if asked."""
        super().on_fit_start()
        dtype = self.hparams["reference_dtype"]
        check_reference(self, dtype)
        wanted = dtype is not None and self.hparams["anchor_weight"] and self.teacher is not None
        self.reference = ReferenceNetwork(self.teacher, dtype) if wanted else None  # type: ignore[arg-type]

    @property
    def changes_steps(self) -> bool:
        """Whether steps need the teacher, which a reference replaces."""
        return self.reference is None

    def reference_output(self, batch: Batch) -> Output:
        """The output that the anchor compares with: the teacher's, or that of the reference."""
        assert self.task is not None
        if self.reference is None:
            return self.teacher_output(batch)
        return self.reference(batch["x"], self.task.select(batch))

    def on_train_start(self) -> None:
        """Begins the cache of the teacher's outputs, if asked."""
        super().on_train_start()
        own = type(self).distance is DistillSFT.distance and type(self).anchor_loss is DistillSFT.anchor_loss
        wanted = self.hparams["anchor_weight"] and self.teacher is not None
        self.cached = begin(self, self.on if own else "", self._compared) if wanted else None

    def on_train_end(self) -> None:
        """Leaves the teacher's outputs to other runs, if asked."""
        super().on_train_end()
        if self.cached is not None:
            self.cached.save()

    def kept_tensors(self) -> list[Tensor]:
        """The teacher's cached outputs, and its weights in another dtype."""
        kept = [] if self.cached is None else self.cached.tensors
        return kept if self.reference is None else [*kept, *self.reference.tensors]

    def distance(self, student: Items, teacher: Items) -> Tensor:
        """D per item: `[N]`, or per weighted row of features."""
        mine, theirs = getattr(student, self.on), getattr(teacher, self.on)
        if not mine.shape[-1]:
            raise UserError(
                "model.on",
                "features needs one vector per item below the encoder's first new layer, and this network lacks it",
                "use PlainSFT or L2SPSFT",
            )
        kind = self.hparams["distance"]
        if self.cached is not None and self.cached.form.top_k is not None:
            each: Tensor = top_k_kl(mine, theirs, self.hparams["temperature"])
        elif kind != "kl":
            if self.on != "features":
                assert self._compared is not None
                mine, theirs = self._compared.vectors(mine), self._compared.vectors(theirs)
            each = DISTANCES[kind](mine, theirs)
        else:
            assert self._compared is not None
            divergence = self._compared.divergence(mine, theirs, self.hparams["temperature"])
            assert divergence is not None
            each = divergence
        weights = student.weights if self.on == "features" else student.output_weights
        return each if weights is None else weights * each

    def anchor_loss(self, batch: Batch, output: Output) -> Tensor | None:
        """λ·Σ D over the micro-batch's items."""
        if self.hparams["anchor_weight"] == 0.0:
            return None
        assert self.task is not None
        compute = self.reference_output
        found = compute(batch) if self.cached is None else self.cached.output(batch, compute)
        student, teacher = self.task.pair(output, found, batch)
        with spared(teacher.logits) if self._reads_once() else nullcontext():
            distance = self.distance(student, teacher)
        weighted: Tensor = self.hparams["anchor_weight"] * distance.sum()
        return weighted

    def _reads_once(self) -> bool:
        """Whether the teacher's outputs are read once: by the methods here, not by somebody's own or a cache."""
        cls, task = type(self), type(self._compared)
        own = cls.distance is DistillSFT.distance and cls.teacher_output is SFTModule.teacher_output
        return own and task.__module__.startswith("sft_lightning.") and not cache.TEACHER.on
