"""Writes tables of BCCD's images from their boxes: kinds of cells, number of red cells, area of white ones.

    .venv/bin/python benchmarks/bccd_tables.py data/bccd

writes data/bccd/train.csv, val.csv and test.csv with the columns file_name, labels, red_cells (in tens) and white_area (the sum
of the boxes' areas, in tenths of the image's).
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
            table.writerow(["file_name", "labels", "red_cells", "white_area"])
            for row in range(len(samples)):
                corners, numbers, _ = samples.truth.of(row)
                counts = Counter(loaded.labels[number] for number in numbers)
                white = corners[numbers == loaded.labels.index("WBC")]
                area = (white[:, 2:] - white[:, :2]).prod(1).sum() / samples.truth.sizes[row].prod()
                table.writerow([samples.key(row), ";".join(sorted(counts)), counts["RBC"] / 10, f"{10 * area:.4f}"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
