"""The front door recognises folders of sounds, and trains what it infers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sft_lightning.autoconfig.default_study import front_door
from sft_lightning.core.structures import TaskInfo
from sft_lightning.networks import MelCNN, TransformersAudio
from tests.data.audio_files import write_classes, write_metadata, write_transcripts
from tests.networks.tiny_audio import MASKED, tiny_wav2vec2
from tests.refused import refused


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("sounds")
    torch.manual_seed(0)
    task = TaskInfo("classification", 3, ["a", "b", "c"])
    small = MelCNN(task, sample_rate=8000, mels=8, channels=[4, 6], hidden=8)
    small.settle(type(small.input_view)(sample_rate=8000))
    small.save_pretrained(str(root / "small"))
    TransformersAudio(task, config=tiny_wav2vec2(**MASKED)).save_pretrained(str(root / "wav2vec2"))
    write_metadata(root / "data")
    write_classes(root / "classes", ["low", "high"], each=12)
    return {name: str(root / name) for name in ("small", "wav2vec2", "data", "classes")}


@pytest.mark.parametrize(("network", "data"), [("small", "data"), ("wav2vec2", "classes")])
def test_a_folder_of_sounds_is_recognised_and_trains(
    network: str, data: str, sounds: dict[str, str], fit: Callable[..., Any]
) -> None:
    study, lines = front_door(sounds[network], sounds[data])
    base = study["base"]
    assert base["network"]["class_path"] == {"small": "MelCNN", "wav2vec2": "TransformersAudio"}[network]
    assert base["data"]["class_path"] == "AudioFolder"
    assert any("sounds in" in line and "classes" in line for line in lines)
    assert any("its output layer is kept as the source head" in line for line in lines)
    assert set(study["arms"]) == {"linear_probe", "plain", "l2sp", "distill"}
    run = fit({**base, "test_after_fit": True}, steps=1)
    assert run.status == "finished" and "test/accuracy" in run.record["test"]


def test_sounds_for_another_network_and_transcripts_are_refused(
    nets: dict[str, str], sounds: dict[str, str], tmp_path: Path
) -> None:
    with refused("--data", "is a folder of sounds", "takes texts"):
        front_door(nets["bert"], sounds["data"])
    write_transcripts(tmp_path, 12)
    rows = "\n".join(f"{number}.wav,one" for number in range(12))
    (tmp_path / "metadata.csv").write_text(f"file_name,transcription\n{rows}")
    with refused("--data", "transcripts (column 'transcription')", "Speech"):
        front_door(sounds["small"], str(tmp_path))
