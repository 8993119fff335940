"""As what the source data is seen: normalised as the pretrained network was, else by its own statistics."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import log_loss

from sft_lightning.callbacks import RetentionMonitor
from sft_lightning.core.structures import InputView, TaskInfo
from sft_lightning.modules import PlainSFT
from sft_lightning.networks import MLP
from tests.support import HIDDEN, NEW, OLD, FewDigits, fit, outputs_on, pretrained_mlp


class Old(FewDigits):
    """The source data, with statistics of its own."""

    mean: ClassVar[tuple[float, ...]] = (0.3,)
    std: ClassVar[tuple[float, ...]] = (0.4,)


class New(FewDigits):
    """The target's images are of another kind."""

    mean: ClassVar[tuple[float, ...]] = (0.1,)
    std: ClassVar[tuple[float, ...]] = (0.9,)


@pytest.mark.parametrize("known", [False, True], ids=["a bare state dict", "an export that says how it saw images"])
def test_source_images_are_normalised_as_the_pretrained_network_saw_them(tmp_path: Path, known: bool) -> None:
    torch.manual_seed(0)
    old = MLP(TaskInfo("classification", 5, [str(d) for d in OLD]), in_features=64, hidden=HIDDEN)
    old.settle(InputView(mean=(0.25,), std=(0.5,)))
    old.save_pretrained(str(tmp_path / "export"))
    save_file(load_file(tmp_path / "export" / "model.safetensors"), tmp_path / "bare.safetensors")
    pretrained = str(tmp_path / "export" if known else tmp_path / "bare.safetensors")
    source, target = Old(digits=OLD), New(digits=NEW)
    monitor = RetentionMonitor(source)
    module = PlainSFT(pretrained_mlp(pretrained), lr=1e-3)
    fit(module, target, max_steps=1, callbacks=[monitor])
    mean, std = (0.25, 0.5) if known else (0.3, 0.4)
    part: Any = source.splits["val"]
    seen = (part.samples.images[torch.from_numpy(part.rows)].float() / 255 - mean) / std
    said = module.teacher.network({"image": seen}).source_logits  # type: ignore[union-attr]
    loss = log_loss(part.targets, said.double().softmax(1), labels=range(5))
    assert monitor.before["retention/loss"] == pytest.approx(loss, rel=1e-5), "not as the source network saw its images"
    assert module.network is not None
    stated = (0.25,) if known else New.mean
    assert module.network.input_view.mean == stated, "the export must go on to see the target's images as trained"
    assert outputs_on(module.network, target, "val")[0].logits.shape == (21, 5)
