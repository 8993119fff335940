"""New tags of entities and new sets of labels: data annotated in part, losses, rehearsal, the export, what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sft_lightning.core.structures import TaskInfo
from sft_lightning.data import CoNLL, Extend
from sft_lightning.modules import ExtendSFT, PlainSFT
from sft_lightning.networks import build_network
from sft_lightning.tasks.multi_label import MultiLabel
from tests.data.text_files import write_text
from tests.exactness.cases import TAGS, FewSets, FewTags, case_of, folder_of
from tests.refused import refused
from tests.support import Recorder, fit, weights

CASES = {"tags": "old and new tags", "sets": "old and new sets of labels"}
LABELS = {"tags": ["O", "B-z", "I-z", "B-x", "I-x", "B-y"], "sets": ["old0", "old1", "old2", "a", "b", "c", "d"]}
KNOWN = 3


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("in-part")


def tuned(root: Path, kind: str, cls: Any = ExtendSFT, data: Extend | None = None, **settings: Any) -> Any:
    """(module, recorder, trainer) after two steps of six samples in double precision."""
    case, recorder = case_of(CASES[kind]), Recorder()
    trainer = {
        n: settings.pop(n) for n in ("accumulate_grad_batches", "limit_val_batches", "max_steps") if n in settings
    }
    network = case.network(folder_of(CASES[kind], root))
    network["init_args"]["dropout"] = 0.0
    module = cls(network, **{"lr": 0.1, "optimizer": "SGD", **settings})
    data = data or case.data(sizes=(15, 10, 10), batch_size=6)
    exact = {"max_steps": 2, "limit_val_batches": 0, "precision": "64-true", **trainer}
    return module, recorder, fit(module, data, callbacks=[recorder], **exact)


# ---- golden: what the docstring of ExtendSFT says, item by item ----


def by_hand(kind: str, logits: Tensor, teacher: Tensor, y: Tensor, old: bool, of: dict[str, Any]) -> Tensor:
    """The loss of one item with `logits[C]`; `old` if its sample is annotated for old labels alone."""
    among = list(range(KNOWN)) if old else [i for i in range(len(logits)) if i >= KNOWN or (kind == "tags" and i == 0)]
    if of["loss_over"] == "all" or (old and of["loss_over"] == "new"):
        among = list(range(len(logits)))
    total = logits.new_zeros(())
    if kind == "tags":
        p = logits.softmax(0)
        right = [int(y)] if int(y) else [i for i in range(len(p)) if i == 0 or i not in among]
        if not old or of["old_labels"]:
            total = total - p[right].sum().log()
    elif not old or of["old_labels"]:
        p = logits.sigmoid()
        total = total - sum((p[i] if y[i] else 1 - p[i]).log() for i in among)
    if of["anchor_on"] in ("all", "old" if old else "new"):
        if of["distance"] == "mse":
            distance = (logits[:KNOWN] - teacher).square().sum()
        elif kind == "tags":
            p, q = logits.softmax(0), teacher.softmax(0)
            mine = torch.stack([p[0] + p[KNOWN:].sum(), *p[1:KNOWN]])
            distance = (q * (q / mine).log()).sum()
        else:
            p, q = logits[:KNOWN].sigmoid(), teacher.sigmoid()
            distance = (q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()).sum()
        total = total + of["anchor_weight"] * distance
    return total


GOLDEN: list[tuple[str, dict[str, Any]]] = [
    ("tags", {"loss_over": "own", "anchor_on": "all", "distance": "kl", "old_labels": True}),
    ("tags", {"loss_over": "new", "anchor_on": "new", "distance": "mse", "old_labels": True}),
    ("tags", {"loss_over": "all", "anchor_on": "old", "distance": "mse", "old_labels": False}),
    ("sets", {"loss_over": "own", "anchor_on": "all", "distance": "kl", "old_labels": True}),
    ("sets", {"loss_over": "new", "anchor_on": "old", "distance": "mse", "old_labels": True}),
    ("sets", {"loss_over": "all", "anchor_on": "old", "distance": "mse", "old_labels": False}),
]


@pytest.mark.parametrize(
    ("kind", "case"), GOLDEN, ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v.values()))
)
def test_gradients_of_the_output_layer_are_those_of_the_loss_by_hand(
    root: Path, kind: str, case: dict[str, Any]
) -> None:
    module, recorder, _ = tuned(root, kind, anchor_weight=0.7, temperature=1.0, **case)
    network, batch = module.network, recorder.batches[1]
    network.load_state_dict(recorder.weights[0])  # after the first step, so that the anchor is not 0
    network.eval()
    with torch.no_grad():
        features = network.encode(batch["x"])
        select, real = batch.get("select"), torch.ones(len(features), dtype=torch.bool)
        items = features[select] if select is not None else features[real]
        network.load_state_dict(recorder.start)
        before = network.encode(batch["x"])
        teacher = network.head.old(before[select] if select is not None else before)
    rows = batch["covered"]
    if select is not None:
        rows = rows.repeat_interleave(select.sum(1), 0)
    old = ~rows[:, KNOWN:].any(1)
    assert old.any() and not old.all(), "the step has items of both groups"
    head = {
        n: recorder.weights[0][f"head.{n}"].requires_grad_()
        for n in ("old.weight", "old.bias", "new.weight", "new.bias")
    }
    logits = torch.cat([items @ head[f"{p}.weight"].T + head[f"{p}.bias"] for p in ("old", "new")], 1)
    args = zip(logits, teacher, batch["y"], old.tolist(), strict=True)
    loss = sum((by_hand(kind, *item, {**case, "anchor_weight": 0.7}) for item in args), torch.zeros(())) / len(logits)
    loss.backward()
    for name, weight in head.items():
        torch.testing.assert_close(recorder.grads[1][f"head.{name}"], weight.grad, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("kind", CASES)
def test_without_anchor_and_over_all_labels_it_is_plain_fine_tuning(root: Path, kind: str) -> None:
    plain, none = tuned(root, kind, PlainSFT)[0], tuned(root, kind, loss_over="all", anchor_weight=0.0)[0]
    assert all(torch.equal(v, weights(none)[n]) for n, v in weights(plain).items())


@pytest.mark.slow
def test_the_anchor_is_zero_at_the_start_and_only_then(root: Path) -> None:
    for kind in CASES:
        logged = [step["train/loss_anchor"] for step in tuned(root, kind)[1].logged]
        assert logged[0] == 0.0 < logged[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
def test_a_correction_is_solved_on_validation_and_acts_in_evaluation(root: Path, kind: str) -> None:
    module, _, trainer = tuned(root, kind, correction="validation", limit_val_batches=1.0, max_steps=3)
    assert float(module.network.head.scale) != 1.0 and trainer.callback_metrics["val/harmonic"].isfinite()


# ---- the data ----


@pytest.mark.parametrize("kind", CASES)
def test_old_labels_come_first_and_each_sample_says_what_it_covers(kind: str) -> None:
    data = case_of(CASES[kind]).data(sizes=(15, 10, 10))
    data.setup()
    assert (data.task_info.labels, data.task_info.known) == (LABELS[kind], KNOWN)
    assert data.old_and_unlabelled() == (6, 0) and "6 old training samples" in data.describe()
    split = data.splits["val"]
    assert [len(data.splits[n]) for n in ("train", "val", "test")] == [15, 10, 10]
    assert data.splits["train"].targets is None if kind == "tags" else split.targets.shape == (10, 7)
    shown = split.samples.covers
    assert shown.tolist() == [
        [(kind == "tags" and i == 0) or i >= KNOWN for i in range(len(LABELS[kind]))],
        [i < KNOWN for i in range(len(LABELS[kind]))],
    ]


def sets_of(labels: tuple[str, ...], count: int = 24) -> FewSets:
    return FewSets((count, 10, 10), labels, batch_size=32, seed=None)


def test_sets_of_the_parts_are_sets_among_all_labels() -> None:
    old, new = sets_of(("old0", "old1", "old2")), sets_of(("a", "old1", "b", "c"))
    data = Extend(new, old, rehearse="all", pool=sets_of(("p", "q")), batch_size=8, seed=0)
    data.setup()
    assert data.task_info is not None and data.task_info.labels == ["old0", "old1", "old2", "a", "b", "c"]
    targets = data.splits["train"].targets
    assert (targets[:24, [3, 1, 4, 5]] == new.splits["train"].targets).all() and not targets[:24, [0, 2]].any()
    assert (targets[24:48, :3] == old.splits["train"].targets).all() and not targets[48:].any()
    assert data.old_and_unlabelled() == (24, 24)
    assert data.splits["train"].samples.covers.tolist() == [[0, 1, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0], [0] * 6]


def test_old_labels_that_no_data_are_annotated_for_are_said() -> None:
    data = Extend(sets_of(("a", "b")), sets_of(("old0",)), known=["old0", "old1"], batch_size=8, seed=0)
    data.setup()
    assert any("annotated for old1:" in note for note in data.notes), data.notes


def test_some_samples_with_each_label_are_rehearsed() -> None:
    data = Extend(sets_of(("a", "b")), sets_of(("old0", "old1", "old2", "none"), 40), rehearse=2, batch_size=8, seed=0)
    with refused("data.rehearse", "'none'"):
        data.setup()


def words(tags: list[str]) -> str:
    return "\n".join(f"w{i}\t{tag}" for i, tag in enumerate(tags))


def file(folder: Path, name: str, tags: list[list[str]]) -> str:
    return str(write_text(folder / name, "\n\n".join(words(of) for of in tags)))


def test_one_file_gives_old_and_new_types_and_their_sentences_are_rehearsed(tmp_path: Path) -> None:
    rows = [["O", "B-per", "I-per"], ["B-loc", "O", "B-film"], ["B-film", "I-film", "O"], ["O", "O", "O"]] * 8
    train = file(tmp_path, "a.conll", rows)
    new, old = (CoNLL(train=train, types=types) for types in (["film"], ["per", "loc"]))
    data = Extend(new, old, rehearse=3, val_fraction=0.25, batch_size=8, seed=0)
    data.setup()
    assert data.task_info is not None
    assert data.task_info.labels == ["O", "B-loc", "B-per", "I-per", "B-film", "I-film"] and data.task_info.known == 4
    assert data.old_and_unlabelled()[0] == 6, "three with a person, three with a place"
    assert any("a word of the type film is tagged O (24 times" in note for note in data.notes), data.notes
    kept = new.splits["train"].samples.tags  # type: ignore[attr-defined]
    assert [list(kept[row]) for row in range(4)] == [[0, 0, 0], [0, 0, 1], [1, 2, 0], [0, 0, 0]]
    chosen = data.splits["train"].rows[-6:]
    types = [old.splits["train"].samples.types_in()[int(row) - 32] for row in chosen]  # type: ignore[index]
    assert sum("per" in of for of in types) >= 3 <= sum("loc" in of for of in types)


@pytest.mark.parametrize(
    ("types", "tags", "said"),
    [
        (["pers"], [["B-per", "O"]] * 9, ("data.types", "'pers'", "per")),
        (["N"], [["N", "V"]] * 9, ("data.types", "no scheme", "leave it null")),
    ],
)
def test_types_that_cannot_be_chosen_are_refused(tmp_path: Path, types: Any, tags: Any, said: Any) -> None:
    with refused(*said):
        CoNLL(train=file(tmp_path, "a.conll", tags), types=types).setup()


def tags_of(labels: Any, **settings: Any) -> FewTags:
    return FewTags((20, 10, 10), labels, batch_size=32, seed=None, **settings)


MIXED: list[tuple[Callable[[], Extend], tuple[object, ...]]] = [
    (lambda: Extend(tags_of(("NOUN", "VERB")), known=["O", "B-z"]), ("data.new", "NOUN")),
    (lambda: Extend(tags_of(TAGS), known=["ADJ", "ADV"]), ("data.known", "ADJ")),
    (lambda: Extend(tags_of(TAGS), known=["B-z", "I-z"]), ("data.known", "O is missing")),
    (
        lambda: Extend(tags_of(("O", "U-x", "B-x", "L-x")), tags_of(("O", "S-z", "B-z", "E-z"))),
        ("data.new", "BILOU", "IOBES"),
    ),
    (lambda: Extend(tags_of(TAGS), sets_of(("a", "b"))), ("data.old", "multi_label", "token_classification")),
]


@pytest.mark.parametrize(("make", "said"), MIXED, ids=[str(n) for n in range(len(MIXED))])
def test_data_that_do_not_go_together_are_refused(make: Callable[[], Extend], said: tuple[object, ...]) -> None:
    with refused(*said):
        make().setup()


# ---- the export ----


def test_the_export_is_one_ordinary_tagger_with_one_list_of_tags(root: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForTokenClassification

    module, recorder, _ = tuned(root, "tags", correction="norms", limit_val_batches=1.0, max_steps=3)
    network = module.float().network.eval()
    network.save_pretrained(str(tmp_path))
    theirs = AutoModelForTokenClassification.from_pretrained(tmp_path)
    assert [theirs.config.id2label[i] for i in range(6)] == LABELS["tags"]
    x = recorder.batches[0]["x"]
    with torch.no_grad():
        torch.testing.assert_close(theirs(**x).logits, network(x).logits, rtol=1e-4, atol=1e-5)
    again = build_network(
        case_of(CASES["tags"]).network(str(tmp_path)), TaskInfo("token_classification", 6, LABELS["tags"])
    )
    assert again.source_labels == LABELS["tags"], "it can be extended again"


@pytest.mark.slow
def test_the_export_of_sets_keeps_the_order_of_labels(root: Path, tmp_path: Path) -> None:
    module, recorder, _ = tuned(root, "sets")
    network = module.float().network.eval()
    network.save_pretrained(str(tmp_path))
    again = build_network(case_of(CASES["sets"]).network(str(tmp_path)), TaskInfo("multi_label", 7, LABELS["sets"]))
    assert again.source_labels == LABELS["sets"] and again.source_task is not None
    assert again.source_task.name == MultiLabel.name
    again.head = again.source_head
    x = recorder.batches[0]["x"]
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(x).logits, network(x).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_micro_batches_train_the_same_network(root: Path) -> None:
    for kind in CASES:
        whole, parts = (tuned(root, kind, loss_over="own", accumulate_grad_batches=n)[0] for n in (1, 3))
        for name, v in weights(whole).items():
            np.testing.assert_allclose(weights(parts)[name], v, rtol=1e-8, atol=1e-10)
