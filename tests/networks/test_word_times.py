"""When words are spoken: equal to transformers' own times, and to frames counted by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sft_lightning.core.structures import TaskInfo
from sft_lightning.networks import Network, build_network, spec, word_times
from sft_lightning.networks.word_times import attention_on, begins, heads_of, token_times, warped, words_of
from sft_lightning.tasks import make_task
from tests.data.audio_files import beep
from tests.networks.tiny_audio import MASKED, tiny_ctc, tiny_whisper


def test_the_words_of_a_ctc_network_have_the_times_of_transformers_pipeline(tmp_path: Path) -> None:
    from transformers import pipeline

    folder = tiny_ctc(tmp_path, **MASKED, initializer_range=0.5)
    network = build_network(spec("TransformersCTC", pretrained=folder), TaskInfo("ctc", 0)).eval()
    assert network.task.frame_seconds == 80 / 8000
    ask, task, words = pipeline("automatic-speech-recognition", folder, device="cpu"), make_task(network.task), 0
    for seed in range(4):
        sound = np.random.default_rng(seed).normal(0, 0.3, 4000 + 1000 * seed).astype(np.float32)
        x = network.input_spec.extract([sound])  # type: ignore[misc]
        frames = network.input_spec.frames(x["sound_lengths"])  # type: ignore[misc]
        select = torch.arange(int(frames.max())) < frames[:, None]
        with torch.no_grad():
            (row,) = task.decode(network(x, select), {"select": select, "count": 1})
        theirs = [
            {"word": part["text"], "start": round(part["timestamp"][0], 3), "end": round(part["timestamp"][1], 3)}
            for part in ask({"raw": sound, "sampling_rate": 8000}, return_timestamps="word")["chunks"]
            if part["text"].strip()
        ]
        if not any("<" in word["word"] for word in theirs):  # special tokens, which write nothing in ours
            assert row["words"] == theirs, seed
            words += len(theirs)
        assert " ".join(word["word"] for word in row["words"]) == " ".join(row["text"].split())
    assert words > 3, "no sound has words to compare"


def test_the_frames_of_each_word_are_counted_without_blanks_and_spaces() -> None:
    info = TaskInfo("ctc", 5, ["", "a", "b", " ", "<s>"], frame_seconds=0.02)
    path = [0, 0, 1, 1, 0, 1, 3, 3, 0, 4, 2, 2, 0, -1]  # "aa", a space, "b", a frame that is not there
    assert make_task(info).words(path) == [  # type: ignore[attr-defined]
        {"word": "aa", "start": 0.04, "end": 0.12},
        {"word": "b", "start": 0.2, "end": 0.24},
    ]
    assert "frame_seconds" not in TaskInfo("ctc", 5).to_dict() and TaskInfo.of(info.to_dict()) == info


def test_the_cheapest_path_is_transformers_own() -> None:
    from transformers.models.whisper.generation_whisper import _dynamic_time_warping

    draw = np.random.default_rng(0)
    for rows, places in ((1, 1), (1, 7), (5, 3), (6, 40)):
        for costs in (draw.normal(size=(rows, places)), draw.integers(0, 2, (rows, places)).astype(float)):
            tokens, at = _dynamic_time_warping(costs)
            theirs = at[np.pad(np.diff(tokens), (1, 0), constant_values=1).astype(bool)]
            assert warped(costs).tolist() == theirs.tolist(), f"{rows} × {places}"


def whisper(folder: Path) -> Network:
    network = build_network(spec("TransformersSpeech", pretrained=tiny_whisper(folder)), TaskInfo("seq2seq", 0)).eval()
    network.generation.max_new_tokens = 12  # type: ignore[attr-defined]
    return network


@torch.no_grad()
def test_whispers_attention_is_read_as_transformers_reads_it_whatever_the_batch(tmp_path: Path) -> None:
    network: Any = whisper(tmp_path)
    model = network._whole[0]
    model.generation_config.alignment_heads = [[0, 0], [0, 1]]
    sounds = [beep(300, seconds, seed=n) for n, seconds in enumerate((0.9, 0.35, 0.6))]
    prompt = network.extractor(sounds)
    (texts, words), moved = network.generate_timed(prompt), False
    assert texts == network.generate(prompt)
    for row, sound in enumerate(sounds):
        (alone,), (spoken,) = network.generate_timed(network.extractor([sound]))
        assert alone == texts[row] and spoken == words[row]
        assert "".join(word["word"] for word in spoken) == "".join(alone.split())
        times = [t for word in spoken for t in (word["start"], word["end"])]
        assert times == sorted(times) and times[0] >= 0 and times[-1] <= len(sound) / 8000

        features = network.extractor.own(sound, sampling_rate=8000, return_tensors="pt").input_features
        model.set_attn_implementation("eager")
        theirs = model.generate(
            features,
            return_token_timestamps=True,
            attention_mask=(torch.arange(100) < len(sound) // 80)[None].long(),
            max_new_tokens=12,
            eos_token_id=network.tokenizer.eos_token_id,
        )
        model.set_attn_implementation("sdpa")
        ids = [n for n in theirs["sequences"][0].tolist() if n not in network.tokenizer.all_special_ids]
        fed = ids[:-1]  # transformers has no attention of the last token, which is not followed by another
        heard = network.encoder.encoder(features).last_hidden_state
        given = [network.start, *network.writer.given]
        attention = attention_on(model, heard, torch.tensor([[*given, *fed]]), heads_of(model))
        ours = begins(attention[:, len(given) :, : len(sound) // 160], model.config.median_filter_width)
        own = theirs["token_timestamps"][0].tolist()[: len(fed)]
        assert np.allclose(ours * 0.02, own) and len(fed) > 5
        moved |= max(own) > 0
    assert moved, "no token begins later than the sound"


def test_words_begin_with_their_first_token_and_end_where_the_next_token_begins(tmp_path: Path) -> None:
    tokenizer = whisper(tmp_path).tokenizer  # type: ignore[attr-defined]
    text = " the lazy dog 東京"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    seconds = np.arange(len(ids) + 1) / 10
    words = words_of(tokenizer, ids, seconds)
    assert [word["word"] for word in words] == ["the", "lazy", "dog", "東", "京"]
    ends = [len(tokenizer.decode(ids[: n + 1]).rstrip("\ufffd")) for n in range(len(ids))]
    for word, begin in zip(words, (1, 5, 10, 14, 15), strict=True):
        first = next(n for n, end in enumerate(ends) if end > begin)
        last = next(n for n, end in enumerate(ends) if end >= begin + len(word["word"]))
        assert (word["start"], word["end"]) == pytest.approx((first / 10, (last + 1) / 10)), word


def test_a_token_is_where_the_token_before_it_looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    looks = [
        (0, 12),
        (12, 24),
        (24, 30),
        (30, 44),
    ]  # the last given token, and three of text; the last looks at the end

    def attention(model: Any, heard: Any, ids: torch.Tensor, heads: Any) -> torch.Tensor:
        assert ids.tolist() == [[7, 8, 1, 2, 3]]
        seen = torch.full((2, 5, 50), 0.01)
        for row, (begin, end) in enumerate(looks, 1):
            seen[:, row, begin:end] = 1.0
        return seen

    monkeypatch.setattr(word_times, "attention_on", attention)
    model = whisper(tmp_path)._whole[0]  # type: ignore[index,operator]
    assert token_times(model, torch.zeros(1, 50, 16), [7, 8], [1, 2, 3], 44).tolist() == [0, 12, 24, 30]
