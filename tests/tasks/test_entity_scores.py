"""Scores of entities are seqeval's in every scheme, on tags as hostile as chance makes them; the scheme is recognised."""

import random
from collections.abc import Sequence

import pytest
from seqeval import scheme as schemes
from seqeval.metrics import classification_report, f1_score, precision_score, recall_score

from sft_lightning.core.structures import TaskInfo
from sft_lightning.evaluation.known_metrics import info_of
from sft_lightning.tasks import make_task
from sft_lightning.tasks.entity_scores import SCORES, EntityScores
from sft_lightning.tasks.schemes import PREFIXES, entities, irregular, recognise, scheme_of

TYPES = ("PER", "LOC-x", "a.b", "-")
"""The last is read as `_` in strict mode"""
SCHEMES = tuple(PREFIXES)
pytestmark = pytest.mark.filterwarnings("ignore")
WITH = {"f1": f1_score, "precision": precision_score, "recall": recall_score}


def tags_of(scheme: str) -> list[str]:
    return ["O", *(f"{prefix}-{kind}" for kind in TYPES for prefix in PREFIXES[scheme])]


def drawn(tags: Sequence[str], seed: int, count: int = 60) -> tuple[list[list[str]], list[list[str]]]:
    """(true, said): any tag may follow any other, and seven of ten are said as they are."""
    draw = random.Random(seed)
    true = [[draw.choice(tags) for _ in range(draw.randint(1, 12))] for _ in range(count)]
    said = [[tag if draw.random() < 0.7 else draw.choice(tags) for tag in row] for row in true]
    return [*true, ["O", "O"]], [*said, ["O", "O"]]


def measured(scheme: str, true: list[list[str]], said: list[list[str]]) -> dict[str, float]:
    tags = tags_of(scheme)
    info = TaskInfo("token_classification", len(tags), tags, scheme="IOB1" if scheme == "IOB1" else "")
    meter = EntityScores(info, SCORES, each_type=True)
    numbers = [[[tags.index(t) for t in row] for row in rows] for rows in (said, true)]
    for start, end in ((0, 1), (1, 20), (20, 20), (20, len(true))):
        meter.update(numbers[0][start:end], numbers[1][start:end])
    return {name: float(value) for name, value in meter.compute().items()}


def as_iobes(rows: list[list[str]]) -> list[list[str]]:
    """seqeval's default mode does not know L- and U-."""
    return [[{"L": "E", "U": "S"}.get(tag[0], tag[0]) + tag[1:] for tag in row] for row in rows]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("seed", range(5))
def test_scores_are_seqevals_by_default_in_strict_mode_and_by_type(scheme: str, seed: int) -> None:
    true, said = drawn(tags_of(scheme), seed)
    found, of = measured(scheme, true, said), getattr(schemes, scheme)
    wanted = {f"entity_{name}": metric(as_iobes(true), as_iobes(said)) for name, metric in WITH.items()}
    for name, metric in WITH.items():
        wanted[f"entity_{name}_strict"] = metric(true, said, mode="strict", scheme=of, zero_division=0)
    by_type = classification_report(as_iobes(true), as_iobes(said), output_dict=True)
    for kind in TYPES:
        wanted[f"entity_f1/{kind}"], wanted[f"entity_n/{kind}"] = by_type[kind]["f1-score"], by_type[kind]["support"]
    assert found == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_regular_tags_read_alike_by_default_and_in_strict_mode_and_gold_scores_one(scheme: str) -> None:
    draw = random.Random(1)
    rows = [regular(scheme, draw) for _ in range(50)]
    found = measured(scheme, rows, rows)
    assert {found[name] for name in SCORES} == {1.0}
    assert not [what for row in rows for what in irregular(row, scheme)], "regular tags are said to be irregular"
    assert recognise(tags_of(scheme), rows) == scheme


def regular(scheme: str, draw: random.Random) -> list[str]:
    """Entities of one to three words, often side by side."""
    tags, before = [], ""
    for _ in range(draw.randint(1, 6)):
        if draw.random() < 0.3:
            tags, before = [*tags, "O"], ""
            continue
        kind, length = draw.choice(TYPES[:2]), draw.randint(1, 3)
        first, last = {"IOB1": "II", "IOB2": "BI", "IOBES": "BE", "BILOU": "BL"}[scheme]
        if scheme == "IOB1" and before == kind:
            first = "B"
        prefixes = [first, *"I" * (length - 2), last] if length > 1 else [first]
        if length == 1 and scheme in ("IOBES", "BILOU"):
            prefixes = ["S" if scheme == "IOBES" else "U"]
        tags, before = [*tags, *(f"{p}-{kind}" for p in prefixes)], kind
    return tags


def test_iob1_is_told_from_iob2_by_how_most_entities_begin() -> None:
    tags = ["O", "B-a", "I-a"]
    assert recognise(tags, [["I-a", "I-a", "B-a"], ["O", "I-a"]]) == "IOB1"
    assert recognise(tags, [["B-a", "I-a", "O"], ["B-a"], ["O", "I-a"]]) == "IOB2"
    assert recognise(["O", "I-a"], [["I-a"]]) == "IOB1"


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        (["O", "B-a", "I-a"], "IOB2"),
        (["B-a"], "IOB2"),
        (["O", "S-a"], "IOBES"),
        (["O", "B-a", "I-a", "E-a"], "IOBES"),
        (["O", "U-a", "B-a", "L-a"], "BILOU"),
        (["O", "I-a", "E-a"], ""),  # IOE
        (["O", "B-a", "L-a", "E-a"], ""),
        (["O", "B-a", "X"], ""),
        (["O"], ""),
        ([], ""),
    ],
)
def test_names_of_tags_tell_their_scheme(tags: list[str], scheme: str) -> None:
    assert scheme_of(tags) == scheme


def test_what_a_scheme_does_not_allow_is_said() -> None:
    assert len(list(irregular(["I-a", "I-a", "O", "I-a", "I-b"], "IOB2"))) == 3
    assert len(list(irregular(["I-a", "B-a", "O", "B-a"], "IOB1"))) == 1
    assert len(list(irregular(["B-a", "O", "E-a", "S-b", "I-b"], "IOBES"))) == 4
    assert entities(["S-a", "B-a", "E-a", "I-a"]) == [(0, 1, "a"), (1, 3, "a"), (3, 4, "a")]


def test_a_test_measures_strict_scores_and_types_and_a_validation_does_not() -> None:
    task = make_task(TaskInfo("token_classification", 3, ["O", "B-a", "I-a"]))
    said = {final: task.make_metrics(final)["entities"] for final in (False, True)}
    for meter in said.values():
        meter.update([[1, 2, 0]], [[1, 2, 1]])
    assert list(said[False].compute()) == task.metric_names[:3]
    assert said[True].compute().keys() == {*SCORES, "entity_f1/a", "entity_n/a"}


def test_scores_of_types_have_direction_and_unit() -> None:
    f1, number = info_of("test/entity_f1/PER"), info_of("test/entity_n/PER")
    assert f1 is not None and (f1.better, f1.unit) == ("max", "share")
    assert number is not None and (number.better, number.unit) == (None, "entities")
