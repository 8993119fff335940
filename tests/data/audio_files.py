"""Writes small data sets of sounds in their own formats: beeps whose pitch tells the class."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

RATE = 8000


def beep(pitch: float, seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """A tone in noise, float32 `[T]`."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    tone = 0.3 * np.sin(2 * np.pi * pitch * time) + 0.02 * random.normal(size=len(time))
    return np.asarray(tone, dtype=np.float32)


def write_sound(path: Path, values: np.ndarray, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, values, rate)
    return path


def pitch_of(label: int) -> float:
    return 300.0 * (label + 1)


def write_classes(root: Path, classes: Sequence[str], each: int = 8) -> None:
    """`root/CLASS/N.wav`, of 0.1 to 0.3 s."""
    for label, name in enumerate(classes):
        for number in range(each):
            seconds = 0.1 + 0.2 * ((7 * number + 3 * label) % 10) / 10
            write_sound(root / name / f"{number}.wav", beep(pitch_of(label), seconds, seed=number + 100 * label))


def write_metadata(root: Path, classes: int = 3, sizes: Sequence[int] = (36, 12)) -> None:
    """`train/metadata.csv` and `test/metadata.csv` with file_name, label and speaker, as audiofolder has it."""
    for split, count in zip(("train", "test"), sizes, strict=True):
        rows = []
        for number in range(count):
            label, speaker = number % classes, "abc"[number // classes % 3]
            seconds = 0.1 + 0.02 * (number % 7)
            name = f"{label}_{speaker}_{number}.wav"
            write_sound(root / split / name, beep(pitch_of(label), seconds, seed=number + 1000 * (split == "test")))
            rows.append((name, label, speaker))
        with (root / split / "metadata.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("file_name", "label", "speaker"), *rows])


def write_transcripts(root: Path, count: int, column: str = "text") -> str:
    """A JSONL manifest of sounds with one to three words each; returns its name."""
    words, rows = ["one", "two", "three", "four", "five"], []
    for number in range(count):
        seconds = 0.4 + 0.05 * (number % 5)
        write_sound(root / f"{number}.wav", beep(200.0 + 10 * number, seconds, seed=number))
        text = " ".join(words[number % 5 :][: 1 + number % 3])
        rows.append({"audio_filepath": f"{number}.wav", column: text, "duration": seconds})
    (root / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(root / "manifest.jsonl")
