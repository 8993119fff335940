"""Names a default study after its data and network."""

import re

GENERAL = ("model", "train", "data", "dataset", "images", "labels", "metadata")
"""Last parts of a path that are too general for a study's name"""


def name_of(data: str, network: str) -> str:
    """A study's name from its data and network: `reviews-bert-tiny`."""
    parts = []
    for path, most in ((data, 23), (network, 24)):
        pieces = [p for p in re.split(r"[/\\:]", path) if p not in ("", ".", "..", "~")]
        pieces = [
            re.sub(r"\.(csv|tsv|jsonl?|parquet|gguf|conllu?|iob2?|bio|txt)$", "", p, flags=re.IGNORECASE)
            for p in pieces
        ]
        # A run's id names nothing either.
        telling = [p for p in pieces if p.lower() not in GENERAL and not re.match(r"\d{8}-\d{6}", p)]
        last = (telling or pieces or ["study"])[-1]
        parts.append(re.sub(r"[^A-Za-z0-9._+-]+", "-", last)[:most].strip("-._+") or "study")
    return "-".join(parts)
