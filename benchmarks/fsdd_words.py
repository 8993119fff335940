"""Writes tables of FSDD's sounds with the word that each speaks, for speech recognition.

    .venv/bin/python benchmarks/fsdd_words.py data/fsdd

writes data/fsdd/train/words.csv and test/words.csv with the columns file_name, text, digit and speaker.
"""

import csv
import sys
from pathlib import Path

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def main(root: Path) -> None:
    """Writes a table beside each metadata.csv."""
    for split in ("train", "test"):
        with (root / split / "metadata.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        with (root / split / "words.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["file_name", "text", "digit", "speaker"])
            table.writerows([r["file_name"], WORDS[int(r["label"])], r["label"], r["speaker"]] for r in rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
