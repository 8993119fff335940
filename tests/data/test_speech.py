"""Speech with transcripts: layouts, targets, what cannot be written or aligned, and WER over a whole split."""

import json
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
import torch

from sft_lightning.core.structures import Output
from sft_lightning.data.audio.speech import Speech
from sft_lightning.networks import Network, build_network, spec
from sft_lightning.tasks import make_task
from sft_lightning.tasks.ctc import CTC
from sft_lightning.tasks.error_rates import ERROR_RATES
from sft_lightning.tasks.metrics import MeanLoss, read_meters, update_meters
from tests.data.audio_files import beep, write_sound, write_transcripts
from tests.networks.tiny_audio import LETTERS, MASKED, tiny_ctc, tiny_whisper
from tests.refused import refused

CLASSES = {"ctc": "TransformersCTC", "seq2seq": "TransformersSpeech"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("speech")
    return {"ctc": tiny_ctc(root / "ctc", **MASKED), "seq2seq": tiny_whisper(root / "whisper")}


def settled(folders: dict[str, str], task: str, **settings: Any) -> tuple[Speech, Network]:
    data = Speech(task=task, **{"batch_size": 4, "val_fraction": 0.3, "seed": 0, **settings})  # type: ignore[arg-type]
    data.setup()
    assert data.task_info is not None
    network = build_network(spec(CLASSES[task], pretrained=folders[task], dropout=0.0), data.task_info).eval()
    network.settle(data.settle(network.wanted_input()))
    return data, network


def write_librispeech(root: Path) -> None:
    for split, count in (("train-clean-100", 6), ("dev-clean", 2), ("test-clean", 3)):
        folder = root / split / "84" / "121"
        lines = []
        for number in range(count):
            write_sound(folder / f"84-121-{number:04}.flac", beep(300, 0.3, seed=number))
            lines.append(f"84-121-{number:04} GO ON {'A' * (number + 1)}")
        (folder / "84-121.trans.txt").write_text("\n".join(lines) + "\n")


def test_librispeech_an_audiofolder_and_a_manifest_are_read_alike(tmp_path: Path) -> None:
    write_librispeech(tmp_path / "libri")
    libri = Speech(root=str(tmp_path / "libri"), task="ctc", letter_case="lower", seed=0)
    libri.setup()
    assert {name: len(split) for name, split in libri.splits.items()} == {"train": 6, "val": 2, "test": 3}
    assert libri.splits["train"].samples.shown(1) == {"text": "go on aa"}
    assert "lower case" in " ".join(libri.remarks())
    manifest = write_transcripts(tmp_path / "folder", 12)
    rows = [json.loads(line) for line in Path(manifest).read_text().splitlines()]
    lines = [f"{row['audio_filepath']},{row['text']}" for row in rows]
    (tmp_path / "folder/metadata.csv").write_text("\n".join(["file_name,transcription", *lines]))
    one, two = (Speech(seed=0, **how) for how in ({"train": manifest}, {"root": str(tmp_path / "folder")}))
    for data in (one, two):
        data.setup()
    assert one.splits["train"].samples.transcripts == two.splits["train"].samples.transcripts
    assert one.fingerprint() == two.fingerprint()

    write_sound(tmp_path / "folder/extra.wav", beep(300, 0.3))
    audiofolder = Speech(root=str(tmp_path / "folder"), seed=0)
    audiofolder.setup()
    assert "left out 1 sound that the metadata does not list" in " ".join(audiofolder.remarks())


def test_the_splits_of_librispeech_are_found_in_the_folder_that_its_archives_make(tmp_path: Path) -> None:
    write_librispeech(tmp_path / "LibriSpeech")
    data = Speech(root=str(tmp_path), task="ctc", seed=0)
    data.setup()
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 6, "val": 2, "test": 3}


def test_a_sound_of_which_a_manifest_states_a_part_is_refused_or_left_out(tmp_path: Path) -> None:
    manifest = write_transcripts(tmp_path, 12)
    write_sound(tmp_path / "3.wav", beep(300, 4.0))  # the manifest says 0.55 s
    with refused("data", "3.wav", "0.55 s", "lasts 4 s"):
        Speech(train=manifest, seed=0).setup()
    data = Speech(train=manifest, seed=0, on_bad_sample="skip")
    data.setup()
    assert sum(len(split) for split in data.splits.values()) == 11
    write_sound(tmp_path / "3.wav", beep(300, 1.0))  # some silence that the manifest does not count
    Speech(train=manifest, seed=0).setup()


def test_error_rates_of_hostile_texts_are_jiwers(tmp_path: Path) -> None:
    pairs = [
        ("a  b", "a b"),
        (" A b", "a b"),
        ("", "a b c"),
        ("a b", ""),
        ("Hello, world!", "hello world"),
        ("x\ty", "x y"),
    ]
    for chosen in (pairs, pairs[::-1], pairs[:1]):
        said, right = map(list, zip(*chosen, strict=True))
        for name, theirs in (("wer", jiwer.wer), ("cer", jiwer.cer)):
            meter = ERROR_RATES[name].make(None)  # type: ignore[arg-type]
            for text, one in zip(said, right, strict=True):
                meter.update([text], [(one,)])
            assert float(meter.compute()) == pytest.approx(theirs(right, said))


def test_what_has_no_effect_and_parts_of_sounds_are_refused(tmp_path: Path) -> None:
    manifest = write_transcripts(tmp_path, 4)
    with refused("data", "root", "train"):
        Speech().setup()
    with refused("data.metrics", "bleu", "wer"):
        Speech(train=manifest, metrics=["bleu"])
    with refused("data.classes", "transcripts"):
        Speech(train=manifest, classes=["a"])
    Path(manifest).write_text(json.dumps({"audio_filepath": "0.wav", "text": "one", "offset": 1.5}))
    with refused("data", "line 1", "offset 1.5"):
        Speech(train=manifest).setup()


def test_characters_that_a_network_cannot_write_are_refused_or_dropped_and_counted(
    tmp_path: Path, folders: dict[str, str]
) -> None:
    manifest = write_transcripts(tmp_path, 12)
    text = Path(manifest).read_text().replace('"one"', '"One, é"')
    Path(manifest).write_text(text)
    with refused("data", "cannot write", "'O' in 1", "letter_case", "drop"):
        settled(folders, "ctc", train=manifest)
    data, _ = settled(folders, "ctc", train=manifest, letter_case="lower", unknown_characters="drop")
    assert "characters dropped: ',' in 1" in data.describe() and "'é' in 1" in data.describe()
    samples = data.splits["train"].samples
    row = samples.transcripts.index("one, é")
    assert "".join(LETTERS[i] for i in samples.target_ids[row]) == "one|"
    Path(manifest).write_text(text.replace('"One, é"', '"one|two"'))  # the mark between words writes a space
    with refused("data", "cannot write", "'|' in 1"):
        settled(folders, "ctc", train=manifest)


def test_a_transcript_longer_than_its_frames_is_refused_or_left_out_and_counted(
    tmp_path: Path, folders: dict[str, str]
) -> None:
    manifest = write_transcripts(tmp_path, 12)
    write_sound(tmp_path / "5.wav", beep(300, 0.03))  # a frame or two
    with refused("data", "5.wav", "too few", "on_bad_sample"):
        settled(folders, "ctc", train=manifest)
    data, _ = settled(folders, "ctc", train=manifest, on_bad_sample="skip")
    read = sum(data.receive(batch)["count"] for split in ("train", "val") for batch in data.loader(split, 0, 1))
    assert read == 11 and sum(map(len, data.skipped.values())) == 1


@pytest.mark.parametrize("task", CLASSES)
@torch.no_grad()
def test_error_rates_are_jiwers_over_the_whole_split_whatever_the_batches(
    tmp_path: Path, folders: dict[str, str], task: str
) -> None:
    manifest, rates = write_transcripts(tmp_path, 20), ["wer", "cer", "wer_plain", "cer_plain"]
    found = []
    for size in (4, 7):
        data, network = settled(folders, task, train=manifest, metrics=rates, eval_batch_size=size)
        info, said, right = network.task, [], []
        meters = {
            "loss": MeanLoss(),
            **make_task(type(info)(info.name, info.num_outputs, info.labels, rates)).make_metrics(),
        }
        own = make_task(info)
        for batch in data.loader("val", 0, 1):
            output = network.answered(network(batch["x"], own.select(batch)), batch)
            update_meters(own, meters, output, batch)
            said += [row["text"] for row in own.decode(output, batch)]
            right += [data.splits["val"].samples.transcripts[row] for row in batch["rows"]]
        values = read_meters(meters)
        assert values["wer"] == pytest.approx(jiwer.wer(right, said))
        assert values["cer"] == pytest.approx(jiwer.cer(right, said))
        found.append(values)
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_transcripts_of_gold_outputs_are_the_transcripts(tmp_path: Path, folders: dict[str, str]) -> None:
    data, network = settled(folders, "ctc", train=write_transcripts(tmp_path, 12))
    task, samples = make_task(network.task), data.splits["train"].samples
    assert isinstance(task, CTC)
    for ids, text in zip(samples.target_ids, samples.transcripts, strict=True):
        path = [output for one in ids for output in (one, one, 0)]  # each output in two frames, then a blank
        logits = torch.nn.functional.one_hot(torch.tensor(path), len(LETTERS)).float() * 20
        batch = {"select": torch.ones(1, len(path), dtype=torch.bool), "beside": [text]}
        assert task.decode(Output(logits, logits), batch)[0]["text"] == text  # type: ignore[arg-type]
    written = network.tokenizer.decode(samples.target_ids[1], group_tokens=False)
    assert written == samples.transcripts[1], "the tokenizer's own reading differs"


@torch.no_grad()
def test_whisper_learns_the_text_and_its_end_after_the_given_tokens(tmp_path: Path, folders: dict[str, str]) -> None:
    data, network = settled(folders, "seq2seq", train=write_transcripts(tmp_path, 12))
    (batch, *_) = data.loader("train", 0, 1)
    texts = [data.splits["train"].samples.transcripts[row] for row in batch["rows"]]
    ids = [network.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert batch["y"].tolist() == [token for one in ids for token in [*one, network.tokenizer.eos_token_id]]
    whole = network._whole[0]
    labels = batch["x"]["target_ids"].where(batch["x"]["select"] if "select" in batch["x"] else batch["select"], -100)
    theirs = whole(input_features=batch["x"]["input_features"], labels=labels).loss
    output = network(batch["x"], batch["select"])
    ours = torch.nn.functional.cross_entropy(output.logits, batch["y"])
    torch.testing.assert_close(ours, theirs)


def test_a_folder_is_written_down_without_training_data(tmp_path: Path, folders: dict[str, str]) -> None:
    write_transcripts(tmp_path, 3)
    data = Speech(predict=str(tmp_path), task="ctc", batch_size=2)
    data.setup("predict")
    network = build_network(spec("TransformersCTC", pretrained=folders["ctc"]), data_task())
    network.eval().settle(data.settle(network.wanted_input()))
    task, said = make_task(network.task), []
    for batch in data.predict_dataloader():
        with torch.no_grad():
            rows = task.decode(network(batch["x"], task.select(batch)), batch)
        said += [
            data.splits["predict"].samples.completed(int(r), row, None)
            for r, row in zip(batch["rows"], rows, strict=True)
        ]
    assert sorted(row["file"] for row in said) == ["0.wav", "1.wav", "2.wav"]
    assert all(isinstance(row["text"], str) and 0 < row["probability"] <= 1 for row in said)


def data_task() -> Any:
    from sft_lightning.core.structures import TaskInfo

    return TaskInfo("ctc", 0)


def test_a_network_of_the_other_kind_is_refused(tmp_path: Path, folders: dict[str, str]) -> None:
    data = Speech(train=write_transcripts(tmp_path, 12), task="seq2seq", val_fraction=0.3)
    data.setup()
    with refused("network", "TransformersCTC is for ctc", "seq2seq"):
        build_network(spec("TransformersCTC", pretrained=folders["ctc"]), data.task_info)


def test_the_loss_of_a_padded_batch_is_that_of_each_sound_alone(tmp_path: Path, folders: dict[str, str]) -> None:
    data, network = settled(folders, "ctc", train=write_transcripts(tmp_path, 12))
    task = make_task(network.task)
    (batch, *_) = data.loader("train", 0, 1)
    with torch.no_grad():
        together = task.loss(network(batch["x"], task.select(batch)), batch)
        split = data.splits["train"]
        alone = [split[int(np.flatnonzero(split.rows == row)[0])] for row in batch["rows"]]
        apart = sum(float(task.loss(network(one["x"], task.select(one)), one).total) for one in alone)
    assert together.n == 4 and float(together.total) == pytest.approx(apart, rel=1e-5)
