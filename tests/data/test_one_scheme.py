"""Old and new data whose tags are in different schemes: written in the network's, with the same entities."""

from pathlib import Path

import numpy as np
import pytest
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import BILOU, IOB1, IOB2, IOBES, Tokens

from sft_lightning.data import CoNLL, Extend
from sft_lightning.tasks.schemes import PREFIXES, in_scheme
from tests.data.text_files import write_text

STRICT = {"IOB1": IOB1, "IOB2": IOB2, "IOBES": IOBES, "BILOU": BILOU}
KNOWN = ["O", "B-per", "I-per", "E-per", "S-per"]


def written(entities: list[tuple[int, int, str]], length: int, scheme: str) -> list[str]:
    """Tags of entities (first word, last word, type), by the definitions of the schemes."""
    tags, ends = ["O"] * length, {last: kind for _, last, kind in entities}
    for first, last, kind in entities:
        for at in range(first, last + 1):
            begins, stops = at == first, at == last
            tags[at] = {
                "IOB1": "B" if begins and ends.get(first - 1) == kind else "I",
                "IOB2": "B" if begins else "I",
                "IOBES": "S" if begins and stops else "B" if begins else "E" if stops else "I",
                "BILOU": "U" if begins and stops else "B" if begins else "L" if stops else "I",
            }[scheme] + f"-{kind}"
    return tags


def drawn(seed: int, kinds: tuple[str, ...] = ("per", "loc-x")) -> tuple[list[tuple[int, int, str]], int]:
    """Entities of a sentence, many of them side by side."""
    random, at, found = np.random.default_rng(seed), 0, []
    for _ in range(6):
        at += int(random.integers(0, 2))
        size = int(random.integers(1, 4))
        found.append((at, at + size - 1, str(random.choice(kinds))))
        at += size
    return found, at + 1


@pytest.mark.parametrize("scheme", PREFIXES)
@pytest.mark.parametrize("wanted", PREFIXES)
def test_tags_in_another_scheme_have_the_entities_that_they_had(scheme: str, wanted: str) -> None:
    for seed in range(30):
        entities, length = drawn(seed)
        tags, expected = written(entities, length, scheme), written(entities, length, wanted)
        found = in_scheme(tags, wanted)
        assert found == expected
        strict = [(e.start, e.end - 1, e.tag) for e in Tokens(found, STRICT[wanted]).entities]
        assert strict == entities
        if {scheme, wanted} <= {"IOB1", "IOB2", "IOBES"}:
            assert get_entities(found) == get_entities(tags) == [(kind, a, b) for a, b, kind in entities]


def sentences(path: Path, kinds: tuple[str, ...], scheme: str, extra: str = "") -> str:
    """A file with 24 sentences of six entities, and perhaps words that follow."""
    parts = []
    for seed in range(24):
        entities, length = drawn(seed, kinds)
        parts.append("\n".join(f"w{i}\t{tag}" for i, tag in enumerate(written(entities, length, scheme))))
    return write_text(path, "\n\n".join(parts) + extra)


def entities_of(part: CoNLL) -> list[list[tuple[str, int, int]]]:
    return [get_entities(tags) for split in part.splits.values() for tags in split.samples.sentences.tags]  # type: ignore[attr-defined]


def test_new_tags_are_written_as_the_networks_and_it_is_said(tmp_path: Path) -> None:
    new, old = (
        CoNLL(train=sentences(tmp_path / f"{kind}.conll", (kind,), scheme))
        for kind, scheme in (("film", "IOB2"), ("per", "IOBES"))
    )
    data = Extend(new, old, rehearse=2, val_fraction=0.25, batch_size=8, seed=0)
    data.setup()
    assert data.task_info is not None and data.task_info.known == 5
    assert data.task_info.labels == ["O", *sorted(KNOWN[1:]), "B-film", "I-film", "E-film", "S-film"]
    (said,) = (note for note in data.notes if "IOB2" in note)
    alone = CoNLL(train=new.files["train"], val_fraction=0.25, seed=0)
    alone.setup()
    assert entities_of(alone) == entities_of(new) and any(entities_of(new))
    kept = alone.splits["train"].samples.sentences.tags  # type: ignore[attr-defined]
    mine = new.splits["train"].samples  # type: ignore[attr-defined]
    changed = sum(a != b for x, y in zip(kept, mine.sentences.tags, strict=True) for a, b in zip(x, y, strict=True))  # type: ignore[attr-defined]
    total = sum(map(len, kept))
    assert "the new data's tags are in IOB2, and are written in IOBES" in said and f"{changed} of {total} tags" in said
    assert new.task_info is not None
    for row in range(24):
        numbers = [new.task_info.labels[i] for i in mine.tags[row]]  # type: ignore[attr-defined]
        assert numbers == mine.sentences.tags[row]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("of_old", "of_new"), [("IOB1", "IOB2"), ("IOB2", "IOB1"), ("IOB2", "BILOU")])
def test_where_names_of_tags_are_the_same_the_old_sentences_decide(tmp_path: Path, of_old: str, of_new: str) -> None:
    new, old = (
        CoNLL(train=sentences(tmp_path / f"{kind}.conll", (kind,), scheme))
        for kind, scheme in (("film", of_new), ("per", of_old))
    )
    data = Extend(new, old, val_fraction=0.25, batch_size=8, seed=0)
    data.setup()
    assert data.task_info is not None and data.task_info.scheme == ("IOB1" if of_old == "IOB1" else "")
    tags = new.splits["train"].samples.sentences.tags  # type: ignore[attr-defined]
    assert tags == [written(*drawn(seed, ("film",)), of_old) for seed in range(24)]


def test_old_sentences_are_written_as_the_known_tags_are(tmp_path: Path) -> None:
    new, old = (CoNLL(train=sentences(tmp_path / f"{kind}.conll", (kind,), "IOB2")) for kind in ("film", "per"))
    data = Extend(new, old, known=KNOWN, val_fraction=0.25, batch_size=8, seed=0)
    data.setup()
    assert data.task_info is not None and data.task_info.labels[:5] == KNOWN and len(data.task_info.labels) == 9
    assert sum("are written in IOBES" in note for note in data.notes) == 2
    same = Extend(CoNLL(train=new.files["train"]), known=["O", "B-per", "I-per"], val_fraction=0.25, seed=0)
    same.setup()
    assert not [note for note in same.notes if "written" in note] and same.task_info.labels[3:] == ["B-film", "I-film"]  # type: ignore[union-attr]
