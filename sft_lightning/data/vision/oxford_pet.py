"""Oxford-IIIT Pet: cats and dogs, with masks of animal, background and border."""

from pathlib import Path
from typing import Any, Literal

from sft_lightning.core.errors import UserError
from sft_lightning.data.base import Splits
from sft_lightning.data.vision.image_folder import folder
from sft_lightning.data.vision.segmentation import Pairs, SegmentationData


class OxfordPet(SegmentationData):
    """Oxford-IIIT Pet's images and trimaps: `annotations/trainval.txt` to train, `annotations/test.txt` to test on.

    Args:
        root: Folder with images and annotations, or the folder oxford-iiit-pet above both, as torchvision has it.
        border: What the border around the animal is: a class, or without label.
        **kwargs: Size and augmentation, subset, split, batches; see SegmentationData.
    """

    def __init__(self, root: str, border: Literal["class", "unlabelled"] = "class", **kwargs: Any) -> None:
        for name in ("labels", "mask_values", "unknown_values", "ignore_index"):
            if kwargs.get(name) is not None:
                raise UserError(f"data.{name}", "has no effect on OxfordPet, whose classes are known", "use MaskFolder")
        values = {"animal": 1, "background": 2} | ({"border": 3} if border == "class" else {})
        super().__init__(mask_values=values, ignore_index=3 if border == "unlabelled" else None, **kwargs)
        if border not in ("class", "unlabelled"):
            raise UserError("data.border", f"must be class or unlabelled, got '{border}'")
        self.root, self.border = root, border

    def load(self) -> Splits:
        top = folder(self.root, "root")
        root = pets_in(top)
        if root is None:
            raise UserError("data.root", f"{top} has no annotations/trimaps", "set it to Oxford-IIIT Pet's folder")
        pairs: dict[str, Pairs] = {}
        for split, name in (("train", "trainval"), ("test", "test")):
            path = root / "annotations" / f"{name}.txt"
            if not path.is_file():
                raise UserError("data.root", f"{path} does not exist", "add it")
            lines = path.read_text(encoding="utf-8").splitlines()
            names = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
            masks = [root / "annotations" / "trimaps" / f"{n}.png" for n in names]
            images = [root / "images" / f"{n}.jpg" for n in names]
            pairs[split] = [
                (image, mask if mask.is_file() else None) for image, mask in zip(images, masks, strict=True)
            ]
        return self.masked(root, pairs, [])


def pets_in(top: Path) -> Path | None:
    """The folder with annotations/trimaps, which is `top` or the folder oxford-iiit-pet in it; None if there is none."""
    return next((p for p in (top, top / "oxford-iiit-pet") if (p / "annotations" / "trimaps").is_dir()), None)
