"""Old and new samples as one data set: labels, splits, rehearsed samples, batches with a share of old ones."""

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sft_lightning.data import Extend, TextTable
from sft_lightning.data.joined import placed
from sft_lightning.data.mixed import MixedBatches
from sft_lightning.data.sampler import Key
from sft_lightning.data.samples import Splits
from tests.refused import refused
from tests.support import NEW, OLD, FewDigits


def few(sizes: tuple[int, int, int] = (40, 21, 21), digits: Any = NEW, **settings: Any) -> FewDigits:
    return FewDigits(sizes, digits, **{"batch_size": 32, "seed": None, **settings})


def both(**settings: Any) -> Extend:
    new, old = few((30, 10, 11), NEW), few((40, 12, 13), OLD)
    data = Extend(new=new, old=old, **{"batch_size": 8, "seed": 0, **settings})
    data.setup()
    return data


def test_old_labels_come_first_and_each_split_has_both_groups() -> None:
    data = both(rehearse=2)
    assert data.task_info is not None
    assert (data.task_info.labels, data.task_info.known) == ([str(d) for d in OLD + NEW], 5)
    counts = {n: [int((s.targets < 5).sum()), int((s.targets >= 5).sum())] for n, s in data.splits.items()}
    assert counts == {"train": [10, 30], "val": [12, 10], "test": [13, 11]}
    assert np.bincount(data.splits["train"].targets)[:5].tolist() == [2] * 5, "two samples of each old label"
    assert "5 labels known, 5 new, 10 old training samples" in data.describe()


def test_every_sample_has_its_own_image_and_label() -> None:
    data = both(rehearse="all")
    parts = {"old": data.old, "new": data.new}
    shuffled = np.random.default_rng(0).permutation(70).tolist()
    batch = data.splits["train"].__getitems__([Key(position, 0) for position in shuffled])
    for image, y in zip(batch["x"]["image"], batch["y"].tolist(), strict=True):
        part = parts["old" if y < 5 else "new"]
        split = part.splits["train"]
        mine = split.rows[split.targets == y % 5]
        assert any(torch.equal(image, split.samples.images[row]) for row in mine)


def test_rehearsed_samples_follow_the_subset_seed_alone() -> None:
    rows = [
        both(rehearse=2, subset_seed=s, seed=n).splits["train"].rows[30:].tolist() for s, n in ((0, 0), (0, 1), (1, 0))
    ]
    assert rows[0] == rows[1] != rows[2]


def test_a_sample_of_an_old_label_in_the_new_data_counts_as_old() -> None:
    data = Extend(new=few((40, 20, 20), [3, 4, 5, 6]), known=[str(d) for d in OLD], batch_size=8, seed=0)
    data.setup()
    assert data.task_info is not None and data.task_info.labels == ["0", "1", "2", "3", "4", "5", "6"]
    assert set(data.splits["train"].targets.tolist()) == {3, 4, 5, 6} and data.old_and_unlabelled()[0] > 0


def test_a_single_label_can_be_added() -> None:
    data = Extend(new=few((6, 3, 3), [7]), old=few((40, 12, 13), OLD), rehearse=1, batch_size=8, seed=0)
    data.setup()
    assert data.task_info is not None and data.task_info.labels == [*map(str, OLD), "7"]
    assert np.bincount(data.splits["train"].targets).tolist() == [1, 1, 1, 1, 1, 6]


def test_a_pool_has_no_labels_and_is_in_training_alone() -> None:
    data = both(rehearse=1, pool=few((12, 5, 5), OLD))
    train = data.splits["train"]
    assert (train.targets[:30] >= 5).all() and sorted(train.targets[30:35]) == [0, 1, 2, 3, 4]
    assert train.targets[35:].tolist() == [-1] * 12
    assert "5 old training samples, 12 without a label" in data.describe()
    assert [len(data.splits[n]) for n in ("val", "test")] == [22, 24] and data.old_in_training == 17
    assert "classes_without_samples" not in data.found(), "samples without a label are no class"
    batch = train.__getitems__([Key(p, 0) for p in (46, 0, 30)])
    assert batch["y"].tolist()[0] == -1 and torch.equal(
        batch["x"]["image"][0], data.pool.splits["train"].samples.images[11]
    )


def test_other_data_is_augmented_as_the_new_data_is() -> None:
    data = Extend(new=few(augment=["flip", "randaugment"]), old=few(digits=OLD), batch_size=8, seed=0)
    assert data.old is not None and data.old.augment == ["flip", "randaugment"]
    with refused("data.old.augment", "flip", "data.new"):
        Extend(new=few(), old=few(digits=OLD, augment=["flip"]))


class Untested(FewDigits):
    """Without test samples."""

    def load(self) -> Splits:
        loaded = super().load()
        loaded.test = None
        return loaded


def test_a_split_that_the_old_data_lacks_is_said() -> None:
    data = Extend(new=few(), old=Untested((40, 12, 13), OLD, batch_size=32, seed=None), batch_size=8, seed=0)
    data.setup()
    assert ["no test samples" in note for note in data.notes] == [True]


class WithBad(FewDigits):
    """Samples whose first row cannot be read."""

    def load(self) -> Splits:
        loaded = super().load()
        loaded.train.bad_rows = lambda: {0: "is damaged"}  # type: ignore[method-assign]
        return loaded


def test_texts_that_are_truncated_are_said(tmp_path: Path) -> None:
    from sft_lightning.core.structures import InputSpec
    from tests.data.text_files import write_text
    from tests.networks.tiny import unigram

    def table(name: str, labels: tuple[str, str], words: int) -> TextTable:
        rows = [f"{'day ' * words}{i},{labels[i % 2]}" for i in range(20)]
        path = write_text(tmp_path / f"{name}.csv", "\n".join(["text,label", *rows]))
        return TextTable(train=str(path), text_column="text", label_column="label", max_length=12)

    data = Extend(table("new", ("c", "d"), 1), table("old", ("a", "b"), 40), val_fraction=0.3, batch_size=8, seed=0)
    data.setup()
    data.settle(InputSpec(kind="text", tokenizer=unigram(), max_length=12))
    said = data.remarks()
    assert said[0].startswith("new: TextTable") and "truncated" not in said[0]
    assert said[1].startswith("old: TextTable") and "truncated to 12 tokens: 100.0% of train" in said[1]


def test_samples_that_loading_leaves_out_of_either_data_are_counted() -> None:
    new, old = (WithBad((30, 10, 11), digits, batch_size=32, seed=None) for digits in (NEW, OLD))
    data = Extend(new=new, old=old, rehearse="all", on_bad_sample="skip", batch_size=8, seed=0)
    data.setup()
    report = data.skipped_report()["train"]
    assert report["count"] == 2 and [s["name"].endswith(" of the old data") for s in report["samples"]].count(True) == 1
    assert len(data.splits["train"]) == 58


# ---- steps with a share of old samples ----


def steps(
    old: int = 7, ratio: float = 0.25, world_size: int = 1, accumulate: int = 1, epochs: int = 2
) -> list[list[int]]:
    """The positions of each optimizer step, over all ranks."""
    orders = [
        MixedBatches(20, old, ratio, 8 // (world_size * accumulate), accumulate, rank, world_size, seed=3)
        for rank in range(world_size)
    ]
    found: list[list[int]] = []
    for epoch in range(epochs):
        for order in orders:
            order.set_epoch(epoch)
        micro = [list(chain(*parts)) for parts in zip(*(list(order) for order in orders), strict=True)]
        assert all(len(order) == len(micro) for order in orders)
        for start in range(0, len(micro), accumulate):
            found.append(sorted(k.position for k in chain(*micro[start : start + accumulate]) if k.real))
    return found


def test_each_step_has_its_share_and_an_epoch_each_new_sample_once() -> None:
    found = steps()
    assert [len(s) for s in found] == [8, 8, 8, 4] * 2
    assert all(sum(p >= 20 for p in step) == 2 for step in found)
    assert sorted(p for step in found[:4] for p in step if p < 20) == list(range(20))
    old = [p for step in found for p in step if p >= 20]
    assert {old.count(p) for p in range(20, 27)} <= {2, 3}, "old samples come in rounds"


@pytest.mark.parametrize(("world_size", "accumulate"), [(2, 1), (1, 4), (2, 2)])
def test_steps_are_the_same_however_they_are_split(world_size: int, accumulate: int) -> None:
    assert steps(world_size=world_size, accumulate=accumulate) == steps()


def test_the_control_has_the_same_new_samples_in_as_many_steps() -> None:
    control = steps(old=0, accumulate=2)
    assert [len(s) for s in control] == [6, 6, 6, 2] * 2
    assert control == [[p for p in step if p < 20] for step in steps(accumulate=2)]


def test_a_loader_resumes_within_an_epoch() -> None:
    data = both(rehearse=2, ratio=0.5)
    whole = [list(b["rows"]) for b in data.loader("train", 0, 1)]
    data.resume_at(0, 3)
    assert [list(b["rows"]) for b in data.loader("train", 0, 1)] == whole[3:]


def test_padding_is_on_the_tokenizers_side() -> None:
    parts = [([0, 2], torch.ones(2, 2, dtype=torch.int64)), ([1], torch.full((1, 3), 2))]
    assert placed(parts, 3, 9, left=False).tolist() == [[1, 1, 9], [2, 2, 2], [1, 1, 9]]
    assert placed(parts, 3, 9, left=True).tolist() == [[9, 1, 1], [2, 2, 2], [9, 1, 1]]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"new": few(digits=OLD), "old": few(digits=OLD)}, ("data.new", "no label", "ordinary")),
        ({"new": few()}, ("data.known", "without old data")),
        ({"new": few(), "known": ["0"], "rehearse": 2}, ("data.rehearse", "no effect")),
        ({"new": few(shots_per_class=3), "known": ["0"]}, ("data.new.shots_per_class", "data.init_args")),
        ({"new": few(), "old": few(digits=OLD), "rehearse": -1}, ("data.rehearse", -1)),
        ({"new": few(), "old": few(digits=OLD), "rehearse": True}, ("data.rehearse", True)),
        ({"new": few(), "old": few(digits=OLD), "rehearse": 30}, ("data.rehearse", "only", "of 30")),
        ({"new": few(), "known": ["0", "1", "0"]}, ("data.known", "'0' twice")),
        ({"new": few(), "known": ["0"], "classes": [1, 2]}, ("data.classes", "data.new")),
        ({"new": {"class_path": "Digitz"}, "known": ["0"]}, ("data.new.class_path", "Digitz")),
    ],
    ids=lambda value: value[0] + " " + str(value[1]) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], said: tuple[object, ...]) -> None:
    with refused(*said):
        Extend(**settings).setup()


def test_a_ratio_must_leave_both_groups() -> None:
    with refused("data.ratio", 0.01, "0 old"):
        list(both(rehearse=1, ratio=0.01).loader("train", 0, 1))
