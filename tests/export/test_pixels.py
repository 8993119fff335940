"""ONNX graphs of images that take pixels: the same answers as with normalised images."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sft_lightning.cli.main import main
from sft_lightning.core.structures import InputView
from sft_lightning.export.pixel_graph import PixelGraph, pixels_of
from sft_lightning.export.tuned import Tuned
from sft_lightning.export.writing import export_run
from tests.export.test_export import code_of
from tests.refused import refused

Get = Callable[[str], Tuned]


@pytest.mark.parametrize(
    "name", ["classification-mlp-onnx", pytest.param("classification-timm-photos", marks=pytest.mark.slow)]
)
@torch.no_grad()
def test_a_graph_that_takes_pixels_answers_as_the_run(
    name: str, tuned: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime  # type: ignore[import-untyped]

    run, folder = tuned(name), tmp_path / "out"
    assert main(["export", str(run.run.path), "--format", "onnx", "--pixels", "--int8", "--to", str(folder)]) == 0
    parity = json.loads((folder / "parity.json").read_text())
    assert all(head["equal_decisions"] == 1.0 for part in (parity, parity["raw"]) for head in part["heads"].values())
    metric = run.task.primary.name
    assert parity["int8"]["heads"]["new"]["float32"] == pytest.approx(run.run.metrics[f"val/{metric}"], abs=1e-5)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    assert session.get_inputs()[0].type == "tensor(uint8)"
    assert "in the graph" in session.get_modelmeta().custom_metadata_map["preprocessing"]
    monkeypatch.chdir(folder)
    here: dict[str, Any] = {}
    exec(code_of(folder)[0], here)
    batch = run.data.receive(run.data.splits["val"][0])
    stored = run.data.splits["val"].samples.raw(int(batch["index"][0]))["image"]
    image = Image.fromarray(stored[0].numpy() if len(stored) == 1 else stored.permute(1, 2, 0).numpy())
    np.testing.assert_allclose(here["predict"](image), run.network(batch["x"]).logits[0], atol=1e-4)


def test_pixels_are_scaled_and_turned_round_in_the_graph() -> None:
    view = InputView(mean=(0.1, 0.5, 0.9), std=(0.2, 0.3, 0.4), reverse_channels=True)
    pixels = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    seen = PixelGraph(nn.Identity(), view, 3)(pixels)
    blue = (pixels[:, 2].float() / 255 - 0.1) / 0.2
    torch.testing.assert_close(seen[:, 0], blue)
    assert torch.equal(pixels_of(seen, view), pixels)


def test_pixels_have_no_effect_on_other_formats_and_inputs(tuned: Get, tmp_path: Path) -> None:
    run = tuned("classification-mlp-onnx").run.path
    with refused("--pixels", "no effect on safetensors"):
        export_run(run, tmp_path / "a", "safetensors", pixels=True)
    with refused("--pixels", "no effect on networks of text"):
        export_run(tuned("classification-bert").run.path, tmp_path / "b", "onnx", pixels=True)
