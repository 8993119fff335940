"""Sounds: reading, layouts, what is converted, cut or left out, and what is said of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from scipy.io import wavfile

from sft_lightning.core.structures import InputSpec
from sft_lightning.data import SFTDataModule
from sft_lightning.data.audio.audio_folder import AudioFolder
from sft_lightning.data.audio.audio_table import AudioTable
from sft_lightning.data.audio.reading import Unreadable, read_header, read_sound
from tests.data.audio_files import RATE, beep, write_classes, write_metadata, write_sound
from tests.refused import refused

SPEC = InputSpec("audio", sample_rate=RATE, network="a network")


def ready(data: SFTDataModule, spec: InputSpec = SPEC) -> Any:
    data.setup()
    data.settle(spec)
    return data


def folder(root: Path, **settings: Any) -> AudioFolder:
    return AudioFolder(str(root), **{"batch_size": 8, "val_fraction": 0.25, "seed": 0, **settings})


# ---- reading ----


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_a_sound_is_read_as_a_second_reader_has_it(tmp_path: Path, suffix: str) -> None:
    values = (beep(440, 0.2) * 32767).astype(np.int16)
    wavfile.write(tmp_path / "a.wav", RATE, values)
    soundfile.write(tmp_path / "a.flac", values, RATE)
    rate, theirs = wavfile.read(tmp_path / "a.wav")
    assert rate == read_header(tmp_path / f"a.{suffix}").rate
    np.testing.assert_array_equal(read_sound(tmp_path / f"a.{suffix}", RATE), theirs.astype(np.float32) / 32768)


def test_stereo_is_mixed_to_the_mean_of_its_channels_and_another_rate_keeps_the_pitch(tmp_path: Path) -> None:
    left, right = beep(440, 0.5, 16000), beep(880, 0.5, 16000)
    path = write_sound(tmp_path / "a.wav", np.stack([left, right], 1), 16000)
    np.testing.assert_allclose(read_sound(path, 16000), (left + right) / 2, atol=1e-4)
    halved = read_sound(path, 8000)
    assert len(halved) == 4000
    loudest = np.abs(np.fft.rfft(halved)).argsort()[-2:] * 2  # bins of 2 Hz
    assert sorted(loudest.tolist()) == [440, 880]


def test_a_sound_is_cut_at_its_beginning_in_seconds_whatever_its_rate(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", beep(440, 0.5, 16000), 16000)
    assert len(read_sound(path, 8000, 0.1)) == 800
    np.testing.assert_allclose(read_sound(path, 8000, 0.1)[:700], read_sound(path, 8000)[:700], atol=1e-4)

    for seconds in (0.33329, 0.33336):  # parts of a sample of its own rate are whole ones of a higher rate
        assert len(read_sound(path, 48000, seconds)) == round(48000 * seconds)
    assert len(read_sound(write_sound(tmp_path / "one.wav", np.ones(1, dtype=np.float32), 48000), RATE)) == 1


def test_an_mp3_that_ends_early_is_unreadable_and_a_stream_of_unknown_length_is_read(tmp_path: Path) -> None:
    values = beep(440, 2.0, 16000)
    whole = write_sound(tmp_path / "a.mp3", values, 16000).read_bytes()
    assert abs(len(read_sound(tmp_path / "a.mp3", 16000)) - len(values)) <= 2304
    (tmp_path / "half.mp3").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Unreadable, match="ends after"):
        read_sound(tmp_path / "half.mp3", 16000)
    stream = bytearray(write_sound(tmp_path / "a.wav", values, 16000).read_bytes())
    stream[4:8] = stream[40:44] = b"\xff" * 4
    (tmp_path / "a.wav").write_bytes(stream)
    assert len(read_sound(tmp_path / "a.wav", 16000)) == len(values)


def broken(tmp_path: Path) -> dict[str, Path]:
    good = write_sound(tmp_path / "good.wav", beep(440, 0.1)).read_bytes()
    made = {name: tmp_path / f"{name}.wav" for name in ("empty", "text", "header", "half", "silent", "nan")}
    made["half"].write_bytes(good[: len(good) // 2])
    made["empty"].write_bytes(b"")
    made["text"].write_text("not a sound")
    made["header"].write_bytes(good[:20])
    write_sound(made["silent"], np.zeros(0, dtype=np.float32))
    soundfile.write(made["nan"], np.array([0.0, np.nan], dtype=np.float32), RATE, subtype="FLOAT")
    return made | {"absent": tmp_path / "absent.wav", "folder": tmp_path}


@pytest.mark.parametrize("what", ["empty", "text", "header", "half", "silent", "nan", "absent", "folder"])
def test_what_is_no_sound_is_unreadable(tmp_path: Path, what: str) -> None:
    with pytest.raises(Unreadable):
        read_sound(broken(tmp_path)[what], RATE)


@pytest.mark.parametrize("what", ["empty", "text", "half", "silent"])
def test_a_broken_file_is_refused_before_training_or_left_out_and_counted(tmp_path: Path, what: str) -> None:
    write_classes(tmp_path / "data", ["low", "high"])
    bad = tmp_path / "data/low/bad.wav"
    bad.write_bytes(broken(tmp_path)[what].read_bytes())
    with refused("data", "bad.wav", "on_bad_sample"):
        folder(tmp_path / "data").setup()
    data = ready(folder(tmp_path / "data", on_bad_sample="skip"))
    assert len(data.splits["train"]) + len(data.splits["val"]) == 16
    assert list(data.skipped["train"]) == [str(bad)]


def test_a_sound_that_breaks_in_its_samples_is_found_when_it_is_fetched(tmp_path: Path) -> None:
    write_classes(tmp_path, ["low", "high"])
    soundfile.write(tmp_path / "low/0.wav", np.full(900, np.nan, dtype=np.float32), RATE, subtype="FLOAT")
    data = ready(folder(tmp_path))
    with refused("data", "0.wav", "not finite"):
        list(data.loader("train", 0, 1)), list(data.loader("val", 0, 1))
    data = ready(folder(tmp_path, on_bad_sample="skip"))
    read = sum(batch["count"] for split in ("train", "val") for batch in data.loader(split, 0, 1))
    assert read == 15


# ---- batches ----


def test_a_batch_has_zeros_after_each_sound_and_its_length(tmp_path: Path) -> None:
    write_classes(tmp_path, ["low", "high"])
    data = ready(folder(tmp_path, group_by_length=False))
    for again in range(2):  # from the files, then from memory
        (batch,) = list(data.loader("train", 0, 1))[:1]
        samples = data.splits["train"].samples
        for values, length, row in zip(batch["x"]["sound"], batch["x"]["sound_lengths"], batch["rows"], strict=True):
            np.testing.assert_array_equal(values[:length].numpy(), read_sound(samples.paths[row], RATE), f"{again}")
            assert not values[length:].any()
        assert batch["y"].dtype == torch.int64


# ---- layouts ----


def test_class_folders_with_splits_beside_one_another(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        write_classes(tmp_path / split, ["low", "high"], each=3)
    (tmp_path / "train/low/notes.txt").write_text("no sound")
    write_sound(tmp_path / "train/.trash/x.wav", beep(100, 0.1))
    data = ready(folder(tmp_path))
    assert data.task_info.labels == ["high", "low"]
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 6, "val": 6, "test": 6}
    assert "left out 1 hidden sound" in " ".join(data.remarks())


def test_metadata_in_split_folders_or_in_one_table_with_splits_by_folder(tmp_path: Path) -> None:
    write_metadata(tmp_path)
    two = ready(folder(tmp_path))
    rows = [
        f"{split}/{line}"
        for split in ("train", "test")
        for line in (tmp_path / split / "metadata.csv").read_text().splitlines()[1:]
    ]
    for split in ("train", "test"):
        (tmp_path / split / "metadata.csv").unlink()
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,label,speaker", *rows]))
    one = ready(folder(tmp_path))
    for data in (one, two):
        assert data.task_info.labels == ["0", "1", "2"]
        assert len(data.splits["test"]) == 12 and len(data.splits["train"]) == 27
    for before in ("./", f"{tmp_path}/"):  # the same files, written otherwise, in a column of another name
        (tmp_path / "metadata.csv").write_text("\n".join(["sound,label,speaker", *(before + row for row in rows)]))
        other = ready(folder(tmp_path, file_column="sound"))
        assert {name: len(split) for name, split in other.splits.items()} == {"train": 27, "val": 9, "test": 12}
        assert other.splits["test"].samples.key(0) == one.splits["test"].samples.key(0)
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,label,speaker", *rows]))
    (tmp_path / "train/extra.wav").write_bytes((tmp_path / "train/0_a_0.wav").read_bytes())
    assert "left out 1 sound that the metadata does not list" in " ".join(ready(folder(tmp_path)).remarks())


def test_a_file_in_no_split_folder_does_not_turn_the_test_sounds_into_training_sounds(tmp_path: Path) -> None:
    write_metadata(tmp_path)
    rows = [
        f"{split}/{line}"
        for split in ("train", "test")
        for line in (tmp_path / split / "metadata.csv").read_text().splitlines()[1:]
    ]
    for split in ("train", "test"):
        (tmp_path / split / "metadata.csv").unlink()
    write_sound(tmp_path / "more/a.wav", beep(300, 0.2))
    table = tmp_path / "metadata.csv"
    table.write_text("\n".join(["file_name,label,speaker", *rows, "more/a.wav,0,a"]))
    with refused("data", "more/a.wav", "no folder of a split", "test"):
        ready(folder(tmp_path))
    table.write_text("\n".join(["file_name,label,speaker", *rows, ",0,a"]))
    without_file = ready(folder(tmp_path, on_bad_sample="skip"))
    assert {name: len(split) for name, split in without_file.splits.items()} == {"train": 27, "val": 9, "test": 12}
    table.write_text("\n".join(["file_name,label,speaker", *rows, "../a.wav,0,a"]))
    with refused("data", "../a.wav") as caught:
        ready(folder(tmp_path))
    assert "audio_root" not in str(caught.value), "the fix names an option that AudioFolder does not have"


def test_a_split_without_metadata_beside_one_with_it_is_counted_and_steps_up_and_down_are_not(tmp_path: Path) -> None:
    write_metadata(tmp_path)
    (tmp_path / "test/metadata.csv").unlink()
    assert "left out 12 sounds that the metadata does not list" in " ".join(ready(folder(tmp_path)).remarks())
    table = tmp_path / "train/metadata.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], *(f"../train/{line}" for line in lines[1:])]))
    data = ready(folder(tmp_path / "train"))
    assert not [line for line in data.remarks() if "does not list" in line]
    assert data.splits["train"].samples.key(0) == "0_a_0.wav"


def test_speech_commands_lists_decide_the_splits_and_background_noise_is_left_out(tmp_path: Path) -> None:
    write_classes(tmp_path, ["go", "stop", "_background_noise_"], each=8)
    (tmp_path / "validation_list.txt").write_text("go/0.wav\nstop/1.wav\n")
    (tmp_path / "testing_list.txt").write_text("\ufeffgo/2.wav\r\n./stop/3.wav\r\nstop/99.wav\r\n", encoding="utf-8")
    write_sound(tmp_path / "loose.wav", beep(300, 0.1))
    data = ready(folder(tmp_path))
    assert data.task_info.labels == ["go", "stop"]
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 12, "val": 2, "test": 2}
    said = " ".join(data.remarks())
    assert "_background_noise_" in said and "1 of 3 sounds that testing_list.txt lists" in said
    assert "left out 1 sound beside the class folders" in said
    (tmp_path / "testing_list.txt").write_text("go/2.wav\nstop/1.wav\n")
    with refused("data", "stop/1.wav is in validation_list.txt and in testing_list.txt"):
        folder(tmp_path).setup()


def test_a_folder_of_sounds_without_classes_is_told_to_add_sounds(tmp_path: Path) -> None:
    write_sound(tmp_path / "a.wav", beep(300, 0.1))
    with refused("data", "no class folders", "that class's sounds"):
        folder(tmp_path).setup()


def test_some_classes_and_some_speakers_of_a_table(tmp_path: Path) -> None:
    write_metadata(tmp_path)
    data = ready(folder(tmp_path, classes=["2", "0"], only={"speaker": ["a", "b"]}))
    assert data.task_info.labels == ["2", "0"]
    samples = data.splits["train"].samples
    names = [samples.key(row) for split in ("train", "val") for row in data.splits[split].rows]
    assert len(names) == 16 and all(name[0] in "02" and name[2] in "ab" for name in names)
    assert "24 of 36 rows are kept (speaker: a, b)" in " ".join(data.remarks())
    with refused("data.only", "speaker", "d"):
        folder(tmp_path, only={"speaker": ["d"]}).setup()


def test_speakers_are_never_in_two_splits_if_they_are_groups(tmp_path: Path) -> None:
    write_metadata(tmp_path)
    data = ready(AudioTable(str(tmp_path / "train/metadata.csv"), group_column="speaker", val_fraction=0.34, seed=0))
    sides = [
        {data.splits[split].samples.key(row)[2] for row in data.splits[split].rows.tolist()}
        for split in ("train", "val")
    ]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 3


def test_files_of_a_table_must_lie_in_its_folder_or_in_the_one_named(tmp_path: Path) -> None:
    write_classes(tmp_path / "sounds", ["low", "high"])
    lines = [f"{tmp_path}/sounds/{name}/{i}.wav,{name}" for name in ("low", "high") for i in range(8)]
    (tmp_path / "tables").mkdir()
    table = tmp_path / "tables/train.csv"
    table.write_text("\n".join(["path,label", *lines]))
    with refused("data", "lies outside", "audio_root"):
        AudioTable(str(table)).setup()
    data = ready(AudioTable(str(table), audio_root=str(tmp_path / "sounds"), val_fraction=0.25, seed=0))
    assert data.splits["train"].samples.key(0) == "low/0.wav"


def test_options_without_effect_and_networks_of_another_kind_are_refused(tmp_path: Path) -> None:
    write_classes(tmp_path, ["low", "high"])
    with refused("data.label_column", "metadata"):
        folder(tmp_path, label_column="label").setup()
    data = folder(tmp_path)
    data.setup()
    with refused("network", "LSTM takes texts", "AudioFolder has sounds"):
        data.settle(InputSpec("text", network="LSTM"))
    limited = folder(tmp_path, max_seconds=5.0)
    limited.setup()
    with refused("data.max_seconds", "5", "2 seconds"):
        limited.settle(InputSpec("audio", sample_rate=RATE, max_seconds=2.0, network="AST"))


# ---- what is said ----


def test_what_was_resampled_mixed_and_cut_is_counted(tmp_path: Path) -> None:
    write_classes(tmp_path, ["low", "high"])
    write_sound(tmp_path / "low/0.wav", np.stack([beep(300, 0.2, 16000)] * 2, 1), 16000)
    write_sound(tmp_path / "high/0.wav", beep(300, 2.0))
    said = ready(folder(tmp_path, max_seconds=1.0, val_fraction=0.5)).describe()
    for part in ("16 sounds at 8,000 Hz", "resampled: 1 of 16,000 Hz", "mixed to mono: 1", "cut at 1 s: 12.5% of"):
        assert part in said, said


def test_a_file_or_a_folder_is_predicted_on_without_training_data(tmp_path: Path) -> None:
    write_classes(tmp_path, ["low", "high"], each=2)
    for place, count in ((tmp_path, 4), (tmp_path / "low/0.wav", 1)):
        data = AudioTable(predict=str(place), batch_size=4)
        data.setup("predict")
        assert len(data.splits["predict"]) == count
        found = data.splits["predict"].samples.completed(0, {"label": "low"}, None)
        assert found == {"file": "high/0.wav" if count == 4 else "0.wav", "label": "low"}
    with refused("data.predict", "does not exist"):
        AudioTable(predict=str(tmp_path / "absent")).setup("predict")


@pytest.mark.parametrize("place", ["table", "folder"])
def test_a_column_split_divides_the_only_table(tmp_path: Path, place: str) -> None:
    write_metadata(tmp_path)
    table = tmp_path / "train/metadata.csv"
    kinds = ["train"] * 20 + ["validation"] * 8 + ["Test"] * 8
    write_splits(table, kinds)

    def made(**settings: Any) -> Any:
        if place == "folder":
            return ready(folder(tmp_path / "train", **settings))
        return ready(AudioTable(str(table), **{"batch_size": 8, "seed": 0, **settings}))

    data = made()
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 20, "val": 8, "test": 8}
    assert any("'split'" in line and "20 train, 8 val, 8 test" in line for line in data.remarks())
    assert len(made(only={"split": ["train"]}, val_fraction=0.25).splits["train"]) == 15, "rows that the user chooses"
    write_splits(table, ["train"] * 35 + [""])
    with refused("data", "line 37", "'split'", "no value"):
        made()
    assert sum(len(split) for split in made(on_bad_sample="skip").splits.values()) == 35
    write_splits(table, ["validation"] * 36)
    with refused("data", "no row with train"):
        made()
    write_splits(table, [f"take {n}" for n in range(36)])
    assert any("'split' is not used" in line for line in made().remarks())


def test_a_table_with_rows_of_another_split_than_it_is_read_for_is_refused(tmp_path: Path) -> None:
    write_metadata(tmp_path)
    train, test = (str(tmp_path / split / "metadata.csv") for split in ("train", "test"))
    write_splits(Path(train), ["train"] * 30 + ["test"] * 6)
    with refused("data", "line 32", "says test", "read for train"):
        AudioTable(train, test=test).setup()
    write_splits(Path(train), ["train"] * 36)
    assert len(ready(AudioTable(train, test=test, val_fraction=0.25)).splits["test"]) == 12


def write_splits(table: Path, kinds: list[str]) -> None:
    """Gives the rows of a metadata file a column `split`."""
    lines = [",".join(line.split(",")[:3]) for line in table.read_text().splitlines()]
    table.write_text("\n".join(f"{line},{kind}" for line, kind in zip(lines, ["split", *kinds], strict=True)))
