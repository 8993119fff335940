"""A large teacher that no step needs lies on disk between measurements, which measure the same."""

import resource
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sft_lightning.callbacks import RetentionMonitor
from sft_lightning.core.structures import Batch, Loss, Output
from sft_lightning.modules import PlainSFT, SFTModule, teacher
from sft_lightning.networks.tensors import weights_hash
from tests.support import OLD, digits, fit, make, pretrained_mlp, weights


def from_file(module: SFTModule) -> set[bool]:
    """Whether the teacher's weights are those that are mapped from a file."""
    assert module.teacher is not None
    mapped = {t.data_ptr() for t in module.teacher._on_disk.values()}
    return {p.data_ptr() in mapped for p in module.teacher.network.parameters()}


@pytest.mark.parametrize("variant", ["plain", "distill-logits-kl", "l2sp-decoupled"])
def test_numbers_do_not_depend_on_where_the_teacher_lies(
    pretrained: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    def trained(large: int) -> tuple[SFTModule, dict[str, float]]:
        monkeypatch.setattr(teacher, "LARGE", large)
        module, monitor = make(variant, pretrained), RetentionMonitor(digits(OLD))
        trainer = fit(module, digits(), max_epochs=2, callbacks=[monitor], default_root_dir=str(tmp_path))
        return module, {n: float(v) for n, v in trainer.callback_metrics.items()}

    (usual, expected), (resting, found) = trained(1 << 30), trained(0)
    assert from_file(usual) == {False} and from_file(resting) == {variant == "plain"}
    assert found == expected and "drift/weights_relative" in found and "retention/accuracy" in found
    assert all(torch.equal(w, weights(usual)[n]) for n, w in weights(resting).items())
    assert not list(tmp_path.glob(".teacher*")), "the file has a name"
    assert usual.teacher and resting.teacher and usual.teacher.hash == resting.teacher.hash


class Asks(PlainSFT):
    """Reads the teacher's outputs in each step, where nothing says that it does."""

    def task_loss(self, batch: Batch, output: Output) -> Loss:
        assert self.teacher_output(batch).features.dtype == output.features.dtype
        return super().task_loss(batch, output)


def test_a_resting_teacher_answers_in_a_step(pretrained: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "LARGE", 0)
    module = Asks(pretrained_mlp(pretrained))
    for precision in ("32-true", "64-true"):
        fit(module, digits(), max_steps=1, precision=precision, limit_val_batches=0, default_root_dir=str(tmp_path))
        assert module.teacher is not None and module.teacher.rests


def test_a_teacher_that_a_full_disk_cannot_take_stays_in_memory(
    pretrained: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher, "LARGE", 0)
    module = make("plain", pretrained)
    fit(module, digits(), max_steps=1, limit_val_batches=0, default_root_dir=str(tmp_path / "no folder"))
    assert module.teacher is not None
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limits[1]))  # a write fails as on a full disk
    try:
        module.teacher.rest(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert from_file(module) == {False} and not list(tmp_path.iterdir())


def test_a_file_that_was_changed_is_noticed(pretrained: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "LARGE", 0)
    module = make("plain", pretrained)
    fit(module, digits(), max_steps=1, limit_val_batches=0, default_root_dir=str(tmp_path / "no folder"))
    assert module.teacher is not None and from_file(module) == {False}, "there is no place for it"
    seen = list[str]()

    def other(state: dict[str, Tensor]) -> str:
        seen.append(weights_hash(state) if not seen else "other")
        return seen[-1]

    monkeypatch.setattr(teacher, "weights_hash", other)
    with pytest.raises(RuntimeError, match="changed on their way"):
        module.teacher.rest(tmp_path)
