"""Writes tables of BCCD's images from its boxes: the kinds of cells in each, and the number of red cells.

    .venv/bin/python benchmarks/bccd_tables.py data/bccd

writes data/bccd/train.csv, val.csv and test.csv with the columns file_name, labels and red_cells (in tens).
"""

import csv
import sys
from collections import Counter
from pathlib import Path

from sft_lightning.data.vision.boxed import BoxedRows
from sft_lightning.data.vision.voc_boxes import VOCDetection


def main(root: Path) -> None:
    """Writes the tables beside the images' folder."""
    loaded = VOCDetection(root=str(root)).load()
    for split, samples in (("train", loaded.train), ("val", loaded.val), ("test", loaded.test)):
        if not isinstance(samples, BoxedRows) or samples.truth is None:
            continue
        with (root / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["file_name", "labels", "red_cells"])
            for row in range(len(samples)):
                counts = Counter(loaded.labels[number] for number in samples.truth.of(row)[1])
                table.writerow([samples.key(row), ";".join(sorted(counts)), counts["RBC"] / 10])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
