"""What a folder's README says to type gives the run's own answers, for each kind of input and format."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped]
import torch
from PIL import Image as PIL

from sft_lightning.core.structures import Output
from sft_lightning.export.formats import FORMATS
from sft_lightning.export.probe import take_probe
from sft_lightning.export.tuned import Tuned
from sft_lightning.serve.answering import Model
from sft_lightning.serve.items import Item
from tests.export.cases import CASES
from tests.export.conftest import write

TRIED = ("classification-vit", "tokens-bert", "choices-bert", "questions-bert", "lm-llama", "seq2seq-t5")
TRIED += (
    "tokens-bert-onnx",
    "choices-bert-onnx",
    "questions-bert-onnx",
    "masks-segformer",
    "audio-wav2vec2",
    "speech-ctc",
)
TRIED += (
    "speech-whisper",
    "questions-none",
    "classification-mlp",
    "classification-pooled",
    "classification-vit-onnx",
    "classification-bert-onnx",
)
TRIED += (
    "masks-unet-onnx",
    "masks-segformer-onnx",
    "audio-mel-onnx",
    "audio-masked-onnx",
    "audio-ast-onnx",
    "classification-vit-photos-onnx",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRIED)
@torch.no_grad()
def test_the_snippet_gives_the_runs_answers(
    name: str, tuned: Callable[[str], Tuned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = write(name, tuned(name), tmp_path)
    usage = FORMATS[CASES[name].format]().usage(tuned(name), case.heads)
    monkeypatch.chdir(case.folder)
    here: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", usage, re.DOTALL)[0], here)
    predict, probe = here["predict"], case.probe
    sample, ours = probe.raw[0], probe.new[0].numpy()
    if probe.kind == "masks":
        pixels = PIL.fromarray(sample["image"].permute(1, 2, 0).numpy())
        found = np.array(predict(pixels))
        found = found if case.format == "onnx" else np.moveaxis(found, 0, -1)
        np.testing.assert_allclose(found, ours[0], atol=1e-5)
    elif probe.kind == "audio":
        np.testing.assert_allclose(predict(sample["sound"].numpy()), ours[0], atol=1e-5)
    elif probe.kind == "ctc":
        assert predict(sample["sound"].numpy()) == probe.decisions("new", probe.new)[0]["text"]
    elif probe.kind == "speech":
        assert predict(sample["sound"].numpy()) == probe.texts[0]
    elif probe.kind == "image":
        pixels = sample["image"]
        given = pixels if case.format == "safetensors" else image(pixels)
        np.testing.assert_allclose(predict(given), ours[0], atol=1e-5)
    elif probe.kind == "text":
        np.testing.assert_allclose(predict(sample["text"]), ours[0], atol=1e-5)
    elif probe.kind == "words":
        found = np.array(predict(sample["words"]))
        np.testing.assert_allclose(found, ours[: len(found)], atol=1e-5)
    elif probe.kind == "choices":
        found = np.array(predict(sample["first"][0], sample["second"]))
        np.testing.assert_allclose(found, ours[: len(found), 0], atol=1e-5)
    elif probe.kind == "questions":
        assert predict(sample["question"], sample["context"]) == probe.decisions("new", probe.new)[0]["answer"]
    elif probe.kind == "tokens":
        asked = [{"role": "user", "content": "3 and?"}]
        prompt = here["tokenizer"].apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        ids = tuned(name).network.tokenizer([prompt], return_tensors="pt", add_special_tokens=False)  # type: ignore[operator]
        assert predict(asked) == tuned(name).network.generate(dict(ids))[0]
    else:
        assert predict(sample["text"]).startswith(probe.texts[0])  # which has fewer tokens


def image(pixels: torch.Tensor) -> Any:
    """A grey image, as Pillow opens it in colour."""
    from PIL import Image

    return Image.fromarray(pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy()).convert("RGB")


OWN = (
    "tokens-bert",
    "questions-bert",
    "choices-bert",
    "seq2seq-t5",
    "lm-llama",
    "masks-unet",
    "boxes-timm",
    "audio-mel",
    "speech-ctc",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)
@torch.no_grad()
def test_the_snippet_of_our_own_format_gives_the_runs_answers(
    name: str, tuned: Callable[[str], Tuned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, made = tuned(name), FORMATS["safetensors"]()
    probe = take_probe(run, ("new",), 4)
    made.write(run, tmp_path, ("new",), False)
    config = run.run.files.config.read_text()
    (tmp_path / "training_config.yaml").write_text(config)  # as write_card does
    monkeypatch.chdir(tmp_path)
    here: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", made.usage(run, ("new",)), re.DOTALL)[0], here)
    predict, sample = here["predict"], probe.raw[0]
    output = Output(probe.new[0], probe.new[0], reader=probe.readers[0])
    said = probe.task.decode(output, probe.batches[0])[0]
    if probe.kind == "words":
        assert predict(sample["words"])["tags"] == said["tags"]
    elif probe.kind == "questions":
        assert predict(sample["question"], sample["context"])["answer"] == said["answer"]
    elif probe.kind == "choices":
        data = run.data.splits["val"].samples
        row = int(probe.batches[0]["index"][0])
        found = predict(data.questions[row], data.choices[row])  # type: ignore[attr-defined]
        assert found["choice"] == said["choice"] and found["probabilities"] == pytest.approx(
            said["probabilities"], abs=1e-5
        )
    elif probe.kind == "pairs":
        assert predict(sample["text"]).startswith(probe.texts[0])
    elif probe.kind == "tokens":
        assert isinstance(predict("3 and?"), str)
    elif probe.kind == "masks":
        PIL.fromarray(sample["image"].permute(1, 2, 0).numpy()).save("image.png")
        assert np.array_equal(predict("image.png"), said["mask"])
    elif probe.kind == "boxes":
        image(sample["image"]).save("image.png")
        item = Item("image", image=Path("image.png").read_bytes())
        (wanted,) = Model.load(run.run.path).answer([item])
        assert isinstance(wanted, dict) and predict("image.png") == wanted["new"]
    else:
        soundfile.write("sound.wav", sample["sound"].numpy(), run.network.input_spec.sample_rate, subtype="FLOAT")
        found = predict("sound.wav")
        assert found == said["text"] if probe.kind == "ctc" else found["label"] == said["label"]
