"""Begins the cache of a fit's teacher outputs: checks that it can be right, and chooses what is kept."""

from collections.abc import Mapping
from typing import Any

import torch

from sft_lightning.core.errors import UserError
from sft_lightning.modules.building import BuiltModule
from sft_lightning.modules.kept_form import Form
from sft_lightning.modules.reference import DTYPES
from sft_lightning.modules.teacher_cache import TeacherCache
from sft_lightning.tasks.base import RowTask, Task


def check_form(settings: Mapping[str, Any]) -> None:
    """Raises UserError if a setting of the form has no effect, or does not fit the distance."""
    dtype, top_k = settings["teacher_cache_dtype"], settings["teacher_cache_top_k"]
    for name, value in (("teacher_cache_dtype", dtype), ("teacher_cache_top_k", top_k)):
        if value is not None and settings["teacher_cache"] == "none":
            raise UserError(f"model.{name}", "has no effect with teacher_cache: none", "use memory or disk")
    if top_k is None:
        return
    if top_k < 1:
        raise UserError("model.teacher_cache_top_k", f"must be at least 1, got {top_k}")
    if dtype is not None:
        raise UserError(
            "model.teacher_cache_top_k", "keeps single precision, and teacher_cache_dtype is set", "choose one"
        )
    if settings["distance"] != "kl":
        problem = f"compares probabilities, and distance is {settings['distance']}"
        raise UserError("model.teacher_cache_top_k", problem, "use distance kl, or leave it out")


def begin(module: BuiltModule, on: str, compared: Task | None) -> TeacherCache | None:
    """The cache that the module's settings ask for, at the start of training; None for none.

    Args:
        module: The module that trains.
        on: The tensor that is compared, if the anchor reads nothing else; else empty.
        compared: The task whose outputs are compared; None for features.

    Raises:
        UserError: Samples look different in each epoch, or what is to be kept of outputs makes no sense for them.
    """
    data, how = getattr(module.trainer, "datamodule", None), module.hparams["teacher_cache"]
    teacher = module.teacher
    if how == "none" or teacher is None:
        return None
    split = getattr(data, "splits", {}).get("train")
    if split is None or teacher.sharded:
        why = "needs data of this package" if split is None else "does not work with trainer.strategy fsdp2"
        raise UserError("model.teacher_cache", why, "set it to none")
    if augment := getattr(data, "augment", None):
        said = ", ".join(augment)
        raise UserError(
            "model.teacher_cache",
            f"needs the same view of a sample in each epoch, and data.augment is [{said}]",
            "set it to none, or leave augment out",
        )
    if split.samples.lengths() is not None:
        raise UserError(
            "model.teacher_cache",
            "samples are padded to the longest one beside them, which changes last bits of the teacher's outputs",
            "set it to none",
        )
    form = form_of(module.hparams, on if reads_rows(module.task) else "", compared)
    key = None if how == "memory" else key_of(module, split.samples.digest().hex(), form)
    return TeacherCache(len(split), key, form)


def form_of(settings: Mapping[str, Any], on: str, task: Task | None) -> Form:
    """What the settings keep of outputs, and what the anchor reads of them. See `begin` for the arguments."""
    dtype, top_k = settings["teacher_cache_dtype"], settings["teacher_cache_top_k"]
    form = Form(on, None if dtype is None else DTYPES[dtype], top_k, settings["temperature"] if top_k else 1.0)
    if not form.exact and not form.on:
        name = "teacher_cache_dtype" if dtype is not None else "teacher_cache_top_k"
        raise UserError(f"model.{name}", "is for tasks whose outputs are compared as they are", "leave it out")
    if top_k is not None and (task is None or not task.has_classes):
        raise UserError(
            "model.teacher_cache_top_k",
            "needs outputs that are classes of one distribution"
            + ("" if task is None else f", not those of {task.name}"),
            "leave it out",
        )
    if top_k is not None and task is not None and top_k >= task.width - 1:
        raise UserError(
            "model.teacher_cache_top_k",
            f"{top_k} of {task.width} outputs leave nothing to compare as one outcome",
            f"use less than {task.width - 1}, or leave it out",
        )
    return form


def reads_rows(task: Task | None) -> bool:
    """Whether the task's items are rows of the outputs as they are."""
    cls = type(task)
    return issubclass(cls, RowTask) and cls.items is RowTask.items and cls.rows is Task.rows


def key_of(module: BuiltModule, samples: str, form: Form) -> str:
    """All that the teacher's outputs, as they are kept, depend on, but the size of batches."""
    assert module.teacher is not None and module.network is not None
    device = (
        torch.cuda.get_device_name(module.device)
        if module.device.type == "cuda"
        else torch.backends.cpu.get_cpu_capability()
    )
    run = (module.trainer.precision, torch.__version__, device, torch.get_num_threads(), module.trainer.global_rank)
    told = [*module.teacher.identity, samples, module.network.input_view, *run]
    if module.hparams["reference_dtype"] is not None:
        told.append(module.hparams["reference_dtype"])
    if not form.exact:
        told.append(form)
    return repr(tuple(told))
