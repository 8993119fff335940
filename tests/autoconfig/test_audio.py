"""The front door recognises folders of sounds, and trains what it infers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sft_lightning.ablation.study import make_study
from sft_lightning.autoconfig.default_study import front_door
from sft_lightning.config.overrides import merged
from sft_lightning.core.structures import TaskInfo
from sft_lightning.networks import MelCNN, TransformersAudio
from tests.data.audio_files import beep, write_classes, write_metadata, write_sound, write_transcripts
from tests.networks.tiny_audio import MASKED, tiny_ctc, tiny_wav2vec2, tiny_whisper
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


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("writers")
    return {"ctc": tiny_ctc(root / "ctc", **MASKED), "whisper": tiny_whisper(root / "whisper")}


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


def test_sounds_and_transcripts_for_another_network_are_refused(
    nets: dict[str, str], sounds: dict[str, str], tmp_path: Path
) -> None:
    with refused("--data", "is a folder of sounds", "takes texts"):
        front_door(nets["bert"], sounds["data"])
    write_transcripts(tmp_path, 12)
    rows = "\n".join(f"{number}.wav,one" for number in range(12))
    (tmp_path / "metadata.csv").write_text(f"file_name,transcription\n{rows}")
    with refused("--data", "is sounds with transcripts", "takes sounds with labels", "Whisper"):
        front_door(sounds["small"], str(tmp_path))


LAYOUTS: dict[str, Callable[[Path], str]] = {}


def layout(make: Callable[[Path], str]) -> Callable[[Path], str]:
    LAYOUTS[make.__name__] = make
    return make


@layout
def manifest(root: Path) -> str:
    return write_transcripts(root, 24)


@layout
def audiofolder(root: Path) -> str:
    rows = [json.loads(line) for line in Path(write_transcripts(root / "train", 24)).read_text().splitlines()]
    (root / "train/manifest.jsonl").unlink()
    lines = [f"{row['audio_filepath']},{row['text'].upper()}!" for row in rows]
    (root / "train/metadata.csv").write_text("\n".join(["file_name,transcription", *lines]))
    return str(root)


@layout
def librispeech(root: Path) -> str:
    for split, count in (("train-clean-5", 14), ("dev-clean", 4), ("test-clean", 3)):
        folder = root / split / "84" / "121"
        for number in range(count):
            write_sound(folder / f"84-121-{number:04}.flac", beep(300 + 10 * number, 0.4, seed=number))
        lines = [f"84-121-{number:04} GO ON" for number in range(count)]
        (folder / "84-121.trans.txt").write_text("\n".join(lines))
    return str(root)


@pytest.mark.parametrize("make", LAYOUTS)
@pytest.mark.parametrize("network", ["ctc", "whisper"])
def test_sounds_with_transcripts_are_recognised_for_networks_that_write_them(
    network: str, make: str, writers: dict[str, str], tmp_path: Path
) -> None:
    study, lines = front_door(writers[network], LAYOUTS[make](tmp_path))
    init, told = study["base"]["data"]["init_args"], "\n".join(lines)
    assert study["base"]["data"]["class_path"] == "Speech" and "with transcripts" in lines[0]
    assert (
        study["base"]["network"]["class_path"] == {"ctc": "TransformersCTC", "whisper": "TransformersSpeech"}[network]
    )
    assert set(study["arms"]) == {"last_block", "plain", "l2sp", "distill"}
    assert {"test/wer", "test/cer"} <= set(study["report"])
    if network == "ctc":
        assert (init["task"], study["select"]["target"]) == ("ctc", "val/wer")
        assert init.get("letter_case") == (None if make == "manifest" else "lower")
        assert init.get("unknown_characters") == ("drop" if make == "audiofolder" else None)
        assert ("turned into lower case" in told, "'!' in 24" in told) == (make != "manifest", make == "audiofolder")
    assert ("val_fraction" in init) == (make != "librispeech")


@pytest.mark.parametrize("network", ["ctc", pytest.param("whisper", marks=pytest.mark.slow)])
def test_every_arm_trains_on_transcripts(
    network: str, writers: dict[str, str], tmp_path: Path, fit: Callable[..., Any]
) -> None:
    content, _ = front_door(writers[network], manifest(tmp_path / "data"), retention=manifest(tmp_path / "old"))
    study = make_study(content, tmp_path, "x")
    for arm in study.arms:
        test = {"test_after_fit": True} if arm.name == "distill" else {}
        run = fit({**merged(study.base, arm.overlay), **test}, steps=1)
        if arm.name == "last_block":
            assert 0 < run.record["parameters"]["trainable"] < run.record["parameters"]["total"] / 2
    assert {study.select.target, study.select.kept} <= run.metrics.keys()
    missing = [
        m for m in study.report if m not in run.record["test"] and m.removeprefix("test/") not in run.record["test"]
    ]
    assert not missing, f"reported, and not measured: {missing}"


def test_sounds_with_labels_and_transcripts_are_classified_unless_the_transcripts_are_asked_for(
    writers: dict[str, str], tmp_path: Path
) -> None:
    root = Path(audiofolder(tmp_path))
    file = root / "train/metadata.csv"
    rows = file.read_text().splitlines()
    labelled = [f"{line},{'label' if not at else 'ab'[at % 2]}" for at, line in enumerate(rows)]
    file.write_text("\n".join(labelled))
    assert front_door(writers["ctc"], str(root))[0]["base"]["data"]["class_path"] == "AudioFolder"
    asked = front_door(writers["ctc"], str(root), text_column="transcription")[0]
    assert asked["base"]["data"]["init_args"]["text_column"] == "transcription"
    with refused("--task", "by ctc, not seq2seq"):
        front_door(writers["ctc"], str(root), task="seq2seq")
