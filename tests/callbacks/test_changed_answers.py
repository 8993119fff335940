"""Samples on which a network that was tuned says something else: generated texts, and tags of a kept source head."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer

import sft_lightning
from sft_lightning.callbacks import shown_samples
from sft_lightning.callbacks.shown_samples import decoded, sound_uri
from sft_lightning.core.structures import Output, TaskInfo
from sft_lightning.data.audio.speech import Speech
from sft_lightning.data.text.conll import CoNLL
from sft_lightning.data.text.instructions import Instructions
from sft_lightning.evaluation.said import differing
from sft_lightning.modules import PlainSFT
from sft_lightning.networks import TransformersCTC, TransformersLM, TransformersTokens
from sft_lightning.networks.spec import spec
from sft_lightning.report.error_analysis import samples_of
from sft_lightning.tasks import make_task
from sft_lightning.tasks.base import Said
from tests.data.audio_files import beep, write_sound, write_transcripts
from tests.networks.tiny import tiny_folder
from tests.networks.tiny_audio import MASKED, tiny_ctc


def test_where_the_right_answer_is_known_only_losses_count_the_largest_first() -> None:
    before = {
        1: Said("a", "a", 1.0),
        2: Said("b", "c", 0.2),
        3: Said("d", "d", 1.0),
        4: Said("x", "y", 0.0),
        9: Said(""),
    }
    after = {
        1: Said("b", "a", 0.4),
        2: Said("c", "c", 1.0),
        3: Said("z", "d", 0.0),
        4: Said("w", "y", 0.0),
        5: Said(""),
    }
    assert differing(before, after) == ([3, 1], 4)
    assert differing({1: Said("a"), 2: Said("b")}, {1: Said("a"), 2: Said("c")}) == ([2], 2)


def finished(module: Any, data: Any, root: Path, wandb: str = "disabled") -> tuple[Any, dict[str, Any]]:
    with sft_lightning.run("said", runs_dir=str(root / "runs"), wandb=wandb) as run:
        trainer = Trainer(**run.trainer_kwargs(max_epochs=3, accelerator="cpu"))
        trainer.fit(module, data)
        trainer.test(module, data)
    return run, json.loads((run.path / "details.json").read_text())


def test_generated_texts_before_and_after_are_in_the_details_the_page_and_a_table_of_wandb(tmp_path: Path) -> None:
    llama = tiny_folder(tmp_path / "llama", "llama", "lm")
    rows = [{"prompt": f"{n} plus {n} is", "completion": f" {2 * n} or so"} for n in range(24)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file, known = str(tmp_path / "a.jsonl"), str(tmp_path / "known.jsonl")
    before, after = (TransformersLM(TaskInfo("causal_lm", 0), pretrained=llama, max_new_tokens=6).eval() for _ in "ab")
    for row in rows:  # the answers that are right in the test are those of the pretrained network
        ids = before.tokenizer(row["prompt"], return_tensors="pt")
        row["completion"] = before.generate(ids)[0] or "?"
    (tmp_path / "known.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = Instructions(train=file, val=file, test=known, generate_samples=4, batch_size=8, seed=0)
    module = PlainSFT(spec(TransformersLM, pretrained=llama, max_new_tokens=6), lr=3e-2)
    run, details = finished(module, data, tmp_path, "offline")
    after.load_state_dict(module.network.state_dict())
    after.input_view = module.network.input_view
    assert details["compared"] == 24 and details["changed"], "nothing changed"
    for entry in details["changed"]:
        data.splits["test"].samples.ready()
        prompt = data.splits["test"].samples.prompts([entry["row"]])["prompt"]
        with torch.no_grad():
            said = [network.generate(prompt)[0] for network in (before, after)]
        assert [entry["before"], entry["after"]] == said and entry["label"] == rows[entry["row"]]["completion"]
        assert entry["score_before"] > entry["score_after"]
    shown = samples_of([details])
    assert shown["compared"] == 24 and shown["samples"][0]["score_before"] > shown["samples"][0]["score_after"]
    tables = list(run.path.rglob("*changed*.table.json"))
    assert tables, "W&B got no table of changed samples"
    held = json.loads(tables[0].read_text())
    assert {"before", "after", "label"} <= set(held["columns"]) and len(held["data"]) == len(details["changed"])


def test_tags_that_a_kept_head_says_otherwise_are_listed_beside_their_words(tmp_path: Path) -> None:
    old = tiny_folder(tmp_path / "bert", "bert", "tokens", num_labels=3)
    (tmp_path / "a.conll").write_text("".join(f"Anna B-per\nsees O\nRome{n} B-loc\n\n" for n in range(30)))
    file = str(tmp_path / "a.conll")
    data = CoNLL(train=file, val=file, test=file, batch_size=8, seed=0)
    module = PlainSFT(spec(TransformersTokens, pretrained=old), lr=3e-2)
    _, details = finished(module, data, tmp_path)
    assert details["compared"] == 30 and details["changed"], "no tag of the source head changed"
    for entry in details["changed"]:
        assert entry["words"] == ["Anna", "sees", f"Rome{entry['row']}"] and entry["form"] == "tags"
        assert len(entry["before"]) == len(entry["after"]) == 3 and entry["before"] != entry["after"]
        assert "label" not in entry, "the new task's tags are not the source head's"


def test_sets_of_labels_and_choices_are_said_with_the_share_that_is_right() -> None:
    sets = make_task(TaskInfo("multi_label", 3, ["a", "b", "c"]))
    logits = torch.tensor([[1.0, -1.0, 2.0], [-1.0, -1.0, -1.0]])
    batch = {"y": torch.tensor([[1, 1, 1], [0, 0, 0]])}
    assert sets.said(Output(logits, logits), batch) == [
        Said("a, c", "a, b, c", 2 / 3, "labels"),
        Said("none", "none", 1.0, "labels"),
    ]
    assert sets.said(Output(logits, logits), {}) == [Said("a, c", form="labels"), Said("none", form="labels")]
    choices = make_task(TaskInfo("multiple_choice", 1))
    scores, batch = torch.tensor([[0.1], [0.7], [0.3]]), {"select": torch.tensor([[True, True], [True, False]])}
    assert choices.said(Output(scores, scores), {**batch, "y": torch.tensor([0, 0])}) == [
        Said("1", "0", 0.0, "choice"),
        Said("0", "0", 1.0, "choice"),
    ]


def test_a_changed_choice_is_shown_by_its_text_among_the_choices() -> None:
    entry = {"on": "outputs", "row": 3, "name": "a.csv line 5", "form": "choice", "question": "2 and 2?"}
    entry |= {"choices": ["3", "4", "5"], "before": "1", "after": "2", "label": "1"}
    table = shown_samples.table_of([entry])
    held = dict(zip(table.columns, table.data[0], strict=True))
    assert held["choices"] == "3\n4\n5" and (held["before"], held["after"], held["label"]) == ("4", "5", "4")
    (shown,) = samples_of([{"changed": [entry]}])["samples"]
    assert shown["choices"] == ["3", "4", "5"] and (shown["form"], shown["after"]) == ("choice", "2")


def test_sounds_whose_transcripts_changed_can_be_heard_on_the_page_and_in_wandb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown_samples, "MOST_SOUND", 4000)
    manifest, known = write_transcripts(tmp_path / "data", 16), tmp_path / "data/known.jsonl"
    write_sound(tmp_path / "data/3.wav", beep(300.0, 2.0))  # too long for a page
    listed = [json.loads(line) for line in Path(manifest).read_text().splitlines()]
    listed[3]["duration"] = 2.0
    Path(manifest).write_text("\n".join(map(json.dumps, listed)))
    pretrained = tiny_ctc(tmp_path / "ctc", **MASKED)
    before = TransformersCTC(TaskInfo("ctc", 0), pretrained=pretrained).eval()
    heard = Speech(predict=str(tmp_path / "data"), task="ctc", batch_size=16)
    heard.setup("predict")
    before.settle(heard.settle(before.wanted_input()))
    (batch,) = heard.predict_dataloader()
    task = make_task(before.task)
    with torch.no_grad():
        said = task.decode(before(batch["x"], task.select(batch)), batch)
    names = [heard.splits["predict"].samples.key(row) for row in batch["rows"]]
    rows = [{"audio_filepath": name, "text": row["text"] or "a"} for name, row in zip(names, said, strict=True)]
    known.write_text("\n".join(map(json.dumps, rows)))  # what is right in the test is what the pretrained network says
    data = Speech(train=manifest, val=manifest, test=str(known), task="ctc", batch_size=8, seed=0)
    run, details = finished(PlainSFT(spec(TransformersCTC, pretrained=pretrained), lr=3e-2), data, tmp_path, "offline")
    assert details["compared"] == 16 and details["changed"], "no transcript changed"
    heard = [entry for entry in details["changed"] if "sound" in entry]
    assert heard and not any(entry["name"].endswith("/3.wav") for entry in heard)
    for entry in heard:
        assert entry["sound"].startswith("data:audio/mpeg;base64,") and len(entry["sound"]) <= 4000
        values, rate = decoded(entry["sound"])
        own = data.splits["test"].samples.sound(entry["row"])
        assert rate == 8000 and len(values) == len(own) and np.corrcoef(values, own)[0, 1] > 0.9, entry["name"]
    assert [one["sound"] for one in samples_of([details])["samples"] if "sound" in one]
    hostile = [
        {**heard[0], "sound": "https://example.org/a.mp3"},
        {**heard[0], "sound": "data:text/html;base64,AA", "row": -1},
    ]
    assert not any("sound" in one for one in samples_of([{"changed": hostile}])["samples"])
    held = json.loads(next(iter(run.path.rglob("*changed*.table.json"))).read_text())
    said_there = [row[held["columns"].index("sound")] for row in held["data"]]
    assert said_there.count("Audio") == len(heard), (
        "W&B names the type here, and keeps the files in the table's artifact"
    )
    players = [one for one in shown_samples.table_of(details["changed"]).get_column("sound") if one is not None]
    assert [type(player).__name__ for player in players] == ["Audio"] * len(heard)


def test_a_sound_without_mp3_of_its_rate_is_a_wav_and_a_long_one_is_left_out() -> None:
    values = beep(300.0, 0.5, rate=10000)
    uri = sound_uri(values, 10000)
    assert uri is not None and uri.startswith("data:audio/wav")
    np.testing.assert_allclose(decoded(uri)[0], values, atol=1e-3)
    assert sound_uri(beep(300.0, 60.0), 8000) is None
