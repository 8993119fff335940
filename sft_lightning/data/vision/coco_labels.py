"""The categories of COCO's files of annotations as a set of labels for each image."""

from collections.abc import Sequence
from os.path import isfile
from pathlib import Path
from typing import Any

import numpy as np

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.wording import plural
from sft_lightning.data.arguments import check_arguments
from sft_lightning.data.bad_samples import BadSample
from sft_lightning.data.base import Splits
from sft_lightning.data.vision.coco import categories, files_of, images_in, places_of, read, undefined
from sft_lightning.data.vision.image_folder import FileImages, folder
from sft_lightning.data.vision.listed import ListedImages, images_at
from sft_lightning.data.vision.multi_label_images import LabelSets


class CocoLabels(LabelSets):
    """Images with the set of the categories that COCO's JSON annotates in them, however often. Boxes are not read.

    Every annotation counts, also of crowds. Images without annotations have no label, and are kept. Files and images are
    found as by CocoDetection, and the labels are in the order of the categories' ids.

    Args:
        root: The folder that holds all.
        train: File of the training annotations; default found by its name.
        val: File of the validation annotations; default found by its name, else val_fraction is set aside.
        test: File of the test annotations; default found by its name.
        images: Folder of the images, below root; may have {split}; default found.
        labels: Categories that count, in this order; others are left out and counted, their images stay; default all.
        predict: An image, or a folder of images, to predict on; predicting needs no training data.
        **kwargs: Size and augmentation, subset, split, batches; see Digits.
    """

    def __init__(
        self,
        root: str | None = None,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        images: str | None = None,
        labels: list[str] | None = None,
        predict: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_arguments(CocoLabels.__init__, locals())
        self.root, self.files, self.images = root, (train, val, test), images
        self.labels, self.predict = labels, predict
        if labels is not None and (len(labels) < 2 or len(set(labels)) < len(labels)):
            raise UserError("data.labels", f"must be different names, at least two, got {labels!r:.80}")

    def load(self) -> Splits:
        if self.root is None:
            raise UserError("data", "CocoLabels needs root, the folder of annotations and images", "set it")
        root, notes, found = folder(self.root, "root"), list[str](), dict[str, ListedImages]()
        files, names = files_of(root, self.files), dict[int, str]()
        for split, path in files.items():
            held = read(path)
            own = categories(held, path)
            if names and own != names:
                raise UserError(
                    "data", f"{path} has other categories than {files['train']}", "use files of one data set"
                )
            names = own
            if not held["annotations"]:
                if split == "train" or self.files[("train", "val", "test").index(split)] is not None:
                    raise UserError("data", f"{path} has no annotations, thus no labels", "use another file")
                notes.append(f"{path.name} has no annotations, as hidden test sets have, and is left out")
                continue
            found[split] = self.labelled(root, held, names, path, places_of(root, split, path, self.images), notes)
        return Splits(found["train"], found.get("val"), found.get("test"), self.chosen(names), notes)

    def chosen(self, names: dict[int, str]) -> list[str]:
        """The labels that count, in order. Raises UserError for one that is no category."""
        known = [names[number] for number in sorted(names)]
        for label in self.labels or ():
            if label not in known:
                raise UserError("data.labels", f"there is no category '{label}'{nearest(label, known)}")
        if len(known) < 2:
            raise UserError("data", f"there is 1 category ({known[0]}), but at least 2 labels are needed")
        return self.labels or known

    def labelled(
        self,
        root: Path,
        held: dict[str, Any],
        names: dict[int, str],
        path: Path,
        places: Sequence[Path],
        notes: list[str],
    ) -> ListedImages:
        """The images of a file with their labels, in the file's order. What is left out is added to `notes`."""
        images = images_in(held, path, root, list(places))
        number = {name: at for at, name in enumerate(self.chosen(names))}
        row_of = {key: row for row, key in enumerate(images)}
        targets, lonely, others = np.zeros((len(images), len(number)), dtype=np.uint8), 0, 0
        for entry in held["annotations"]:
            of, category = (entry.get(k) if isinstance(entry, dict) else None for k in ("image_id", "category_id"))
            if not isinstance(category, int) or category not in names:
                raise undefined(path, of, category)
            row = row_of.get(of) if isinstance(of, int | str) else None
            label = number.get(names[category])
            if row is None:
                lonely += 1
            elif label is None:
                others += 1
            else:
                targets[row, label] = 1
        if lonely and lonely == len(held["annotations"]):
            raise UserError("data", f"{path}: no annotation has the image_id of one of the images", "correct the ids")
        if lonely:
            notes.append(f"left out {plural(lonely, 'annotation')} of {path.name} without image")
        if others:
            notes.append(f"left out {plural(others, 'annotation')} of {path.name} that data.labels does not name")
        paths = [image.path for image in images.values()]
        bad = {row: "there is no such file" for row, file in enumerate(paths) if not isfile(file)}
        samples = ListedImages(root, paths, targets, bad)
        if bad and not self.skips:
            raise BadSample.of(samples, bad)
        return samples

    def load_for_prediction(self) -> FileImages | None:
        return None if self.predict is None else images_at(self.predict, "predict")
