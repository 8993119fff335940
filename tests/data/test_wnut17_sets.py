"""The sets of labels that benchmarks/wnut17_sets.py makes from sentences with tags."""

import json
from pathlib import Path

from benchmarks.wnut17_sets import write


def test_a_sentence_gets_each_type_of_its_entities_once_and_one_without_entities_the_empty_set(tmp_path: Path) -> None:
    lines = [
        "Ada\tB-person",
        "Lovelace\tI-person",
        "met\tO",
        "Bob\tB-person",
        "in\tO",
        "Rome\tB-location",
        "",
        "Yes\tO",
    ]
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.conll").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sets = write(tmp_path, tmp_path / "sets")
    assert sets == {key: [["location", "person"], []] for key in ("train", "validation", "test")}
    rows = [json.loads(line) for line in (tmp_path / "sets/test.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows == [
        {"text": "Ada Lovelace met Bob in Rome", "labels": ["location", "person"]},
        {"text": "Yes", "labels": []},
    ]
