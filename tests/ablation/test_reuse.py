"""What runs in one process share changes nothing of any of them, and is computed once."""

from pathlib import Path

import pytest
import torch

from sft_lightning.core import cache
from sft_lightning.core.structures import TaskInfo
from sft_lightning.data import Digits, TextTable
from sft_lightning.modules.teacher import Teacher
from sft_lightning.networks import MLP, TransformersText, spec
from sft_lightning.networks.spec import build_network
from tests.data.text_files import texts, write_jsonl
from tests.networks.tiny import tiny_folder
from tests.support import settle

INFO = TaskInfo("classification", 3, ["a", "b", "c"])


def rows(count):
    return [{"text": text, "label": "abc"[i % 3]} for i, text in enumerate(texts(count))]


@pytest.fixture
def sharing():
    cache.begin()
    cache.next_run()
    yield
    cache.next_run()
    cache.end()


def count_passes(teacher):
    passes = []
    teacher.network.register_forward_hook(lambda *_: passes.append(1))
    return passes


@pytest.fixture
def teacher(pretrained):
    return Teacher(build_network(spec(MLP, in_features=64, hidden=[24, 16], pretrained=pretrained), INFO), "mlp")


def test_nothing_is_shared_unless_a_study_asks_for_it(teacher):
    passes, x = count_passes(teacher), {"image": torch.rand(4, 1, 8, 8)}
    teacher(x), teacher(x)
    assert len(passes) == 2
    assert cache.samples("key", lambda: [1]) is not cache.samples("key", lambda: [1])


def test_a_batch_that_was_seen_is_not_asked_about_again(teacher, sharing):
    passes, x = count_passes(teacher), {"image": torch.rand(4, 1, 8, 8)}
    first, second = teacher(x), teacher({"image": x["image"].clone()})
    assert len(passes) == 1
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("change", ["a pixel", "the order", "the layout", "the type"])
def test_another_batch_is(teacher, sharing, change):
    passes, image = count_passes(teacher), torch.rand(4, 1, 8, 8)
    teacher({"image": image})
    other = image.clone()
    if change == "a pixel":
        other[0, 0, 0, 0] += 1e-3
    elif change == "the order":
        other = other.flip(0)
    elif change == "the layout":
        other = other.transpose(2, 3).contiguous().transpose(2, 3)
    else:
        teacher.to(torch.device("cpu"), torch.float64)
        other = other.double()
    said, alone = teacher({"image": other}), teacher.network({"image": other})
    assert len(passes) == 3 and torch.equal(said.features, alone.features)


def test_another_teacher_is_asked_itself(teacher, sharing, pretrained):
    x = {"image": torch.rand(4, 1, 8, 8)}
    teacher(x)
    made = [build_network(spec(MLP, in_features=64, hidden=[24, 16], pretrained=pretrained), INFO) for _ in range(2)]
    with torch.no_grad():
        next(made[1].encoder.parameters()).add_(1e-3)
    same, other = (Teacher(network, "mlp") for network in made)
    asked = []
    for asks in (same, other):
        passes = count_passes(asks)
        asks(x)
        asked.append(len(passes))
    assert asked == [0, 1], "one teacher is that of every new head, another has other pretrained weights"


def test_what_was_said_while_validating_is_not_used_while_training(teacher, sharing):
    x = {"image": torch.rand(4, 1, 8, 8)}
    with torch.inference_mode():
        teacher(x)
    weight = torch.ones(16, requires_grad=True)
    (teacher(x).features * weight).sum().backward()  # tensors of inference mode would refuse
    assert weight.grad is not None


def test_the_least_recently_used_goes_first():
    kept = cache.LRUCache(2)
    kept.on = True
    for key in ("a", "b", "a", "c"):
        kept.get(key, lambda: object(), lambda _: 1)
    made = []
    for key in ("a", "b"):
        kept.get(key, lambda key=key: made.append(key), lambda _: 1)
    assert made == ["b"]


def test_samples_are_loaded_once_for_runs_that_differ_in_the_labelled_subset(sharing):
    first = Digits(shots_per_class=2, subset_seed=0)
    first.setup()
    cache.next_run()
    second = Digits(shots_per_class=5, subset_seed=1)
    second.setup()
    assert second.splits["train"].samples is first.splits["train"].samples
    assert len(first.splits["train"]) == 20 and len(second.splits["train"]) == 50


def test_target_and_retention_data_of_one_run_are_apart(sharing):
    one, other = Digits(), Digits()
    one.setup(), other.setup()
    assert one.splits["train"].samples is not other.splits["train"].samples


def test_other_files_are_other_samples(tmp_path: Path, sharing):
    made = []
    for name in ("a", "b"):
        write_jsonl(tmp_path / f"{name}.jsonl", rows(12))
        data = TextTable(train=str(tmp_path / f"{name}.jsonl"))
        data.setup()
        cache.next_run()
        made.append(data.splits["train"].samples)
    assert made[0] is not made[1]


def test_texts_are_tokenised_once_by_one_tokenizer_and_anew_by_another(tmp_path: Path, sharing, monkeypatch):
    from sft_lightning.data.text.base import TextRows

    done = []
    tokenise = TextRows.tokenise
    monkeypatch.setattr(TextRows, "tokenise", lambda self: (done.append(1), tokenise(self)))
    write_jsonl(tmp_path / "t.jsonl", rows(24))
    folder = tiny_folder(tmp_path / "bert", "bert", "sequence")
    ids = []
    for length in (16, 16, 8):
        data = TextTable(train=str(tmp_path / "t.jsonl"))
        data.setup()
        settle(data, build_network(spec(TransformersText, pretrained=str(folder), max_length=length), INFO))
        ids.append(data.splits["train"].samples.batch([0, 1])["input_ids"])
        cache.next_run()
    assert torch.equal(ids[0], ids[1]) and len(done) == 2
