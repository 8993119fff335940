"""Small files in SQuAD's format."""

import json
from pathlib import Path
from typing import Any


def article(context: str, *qas: dict[str, Any]) -> dict[str, Any]:
    return {"title": "t", "paragraphs": [{"context": context, "qas": list(qas)}]}


def asked(name: str, *answers: tuple[str, int], **rest: Any) -> dict[str, Any]:
    said = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": name, "question": f"What is {name}?", "answers": said, **rest}


def write(path: Path, *articles: dict[str, Any]) -> str:
    path.write_text(json.dumps({"version": "2.0", "data": list(articles)}, ensure_ascii=False), encoding="utf-8")
    return str(path)
