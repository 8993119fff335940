"""Encoded images, to classify, to segment or to find objects in."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from io import BytesIO
from math import inf
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import TaskInfo
from sft_lightning.data.bad_samples import BadSample
from sft_lightning.data.vision.boxed import Boxed, only_filled, size_of_file
from sft_lightning.data.vision.encoded import DAMAGE, EncodedImages
from sft_lightning.data.vision.masked import Masked
from sft_lightning.data.vision.palette import palette_image
from sft_lightning.networks.base import Network
from sft_lightning.serve.items import Found, Item, Prepared, Reader

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Images that are read; Pillow starts another program for some others"""
MOST_PIXELS = 50_000_000
"""Pixels of an image, as it comes and as it is resized"""
MOST_SEEN = 8_000_000
"""Pixels of a batch as the network sees it, and of an image that is not resized"""


class RequestImages(EncodedImages):
    """Images in memory, encoded."""

    def __init__(self, items: Sequence[Item]) -> None:
        super().__init__(None)
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def open(self, row: int) -> BinaryIO:
        return BytesIO(self.items[row].image or b"")

    def key(self, row: int) -> str:
        return self.items[row].name

    def name(self, row: int) -> str:
        return self.items[row].name


class ImageReader(Reader):
    """Encoded images, seen as the run's data showed them to the network."""

    kind, takes = "image", "images"
    whole = False
    """Whether it is the longer side that is resized"""

    def __init__(self, network: Network, arguments: Mapping[str, Any], device: torch.device) -> None:
        spec, view = network.input_spec, network.input_view
        if view.mean is None or view.std is None:
            raise UserError("model", "config.json does not say how images are normalised", "export the run again")
        if (spec.view.to_dict() if view.view is not None and spec.view is not None else None) != view.view:
            raise UserError(
                "model", "the view of config.json and that of the network's own files differ", "export again"
            )
        self.size, self.own_view = view.size, spec.view if view.view is not None else None
        self.unsized = view.size is None
        self.channels = spec.channels or len(view.mean)
        self.mean, self.std = (torch.tensor(v).view(-1, 1, 1) * 255 for v in (view.mean, view.std))
        self.reverse, self.spec, self.window = view.reverse_channels, spec, view.window

    def check(self, item: Item) -> None:
        if not item.image:
            raise UserError("data", f"{item.name} is empty")

    def batches(self, items: Sequence[Item]) -> Found:
        images = self.images(items)
        images.fit(self.size, self.channels, self.own_view)
        shapes: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}
        for number, item in enumerate(items):
            try:
                self.check_pixels(item)
                seen = images.view(number)
                shapes.setdefault(tuple(seen.shape), []).append((number, seen))
            except BadSample as error:
                yield number, UserError("data", f"{item.name} cannot be read: {next(iter(error.rows.values()))}")
            except UserError as error:
                yield number, error
        for shape, same in shapes.items():
            most = max(1, int(MOST_SEEN * self.share) // (shape[-2] * shape[-1]))
            for start in range(0, len(same), most):
                yield self.prepared(same[start : start + most], items)

    def images(self, items: Sequence[Item]) -> RequestImages:
        """The images of a request, not yet decoded."""
        return RequestImages(items)

    def prepared(self, seen: Sequence[tuple[int, Tensor]], items: Sequence[Item]) -> Prepared:
        """One batch of images of one shape."""
        image = torch.stack([pixels for _, pixels in seen])
        image = image.flip(1) if self.reverse else image
        at = [number for number, _ in seen]
        x = {"image": (image.to(torch.float32) - self.mean) / self.std}
        return Prepared(at, {"x": x, "index": torch.tensor(at), "count": len(at)})

    def check_pixels(self, item: Item) -> None:
        """Raises UserError for an image that is too large, or becomes so when its shorter side is resized."""
        try:
            with Image.open(BytesIO(item.image or b""), formats=FORMATS) as image:
                width, height = image.size
        except DAMAGE:
            problem = f"{item.name} is damaged, too large, or not an image of {', '.join(FORMATS)}"
            raise UserError("data", problem) from None
        short, long = min(width, height), max(width, height)
        wanted = float(max(getattr(self.own_view, "resize", 0), *self.size)) if self.size and short else 0.0
        resized = wanted**2 * (1 if self.whole else long / short) if short else inf
        most = MOST_SEEN if self.unsized else MOST_PIXELS
        if max(width * height, resized) > most:
            counted = ", counted after its shorter side is resized" if resized > width * height else ""
            problem = f"{item.name} has {width}×{height} pixels, and at most {most:,} are served{counted}"
            raise UserError("data", problem)

    def example(self) -> Item:
        height, width = self.size or (8, 8)
        held = BytesIO()
        Image.new("L" if self.channels == 1 else "RGB", (width, height)).save(held, "PNG")
        return Item("example", image=held.getvalue())


class RequestScenes(Masked, RequestImages):
    """Images to segment, which are resized whole."""

    has_masks = False

    def mask(self, row: int) -> Tensor:
        raise self.bad(row, "it has no mask")


class MaskReader(ImageReader):
    """Encoded images to segment. An answer's mask is a PNG of the image's own size, in base64."""

    kind = "masks"

    def __init__(self, network: Network, arguments: Mapping[str, Any], device: torch.device) -> None:
        super().__init__(network, arguments, device)
        self.scores_own = arguments.get("score_size") == "mask" and self.size is not None

    def images(self, items: Sequence[Item]) -> RequestScenes:
        scenes = RequestScenes(items)
        scenes.scores_own = self.scores_own
        scenes.set_window(None if self.window is None else self.window[0])
        return scenes

    def prepared(self, seen: Sequence[tuple[int, Tensor]], items: Sequence[Item]) -> Prepared:
        made, scenes = super().prepared(seen, items), self.images(items)
        scenes.fit(self.size, self.channels)
        if (beside := scenes.beside(made.at)) is not None:
            made.batch["beside"] = beside

        def finish(place: int, prediction: dict[str, Any], task: TaskInfo) -> dict[str, Any]:
            held = self.images([items[made.at[place]]])
            held.fit(self.size, self.channels)
            height, width = held.read(0).shape[-2:]
            found = held.unpadded(prediction["mask"], (height, width))
            if self.window is not None:  # padding has no class
                counts = np.bincount(found.ravel(), minlength=len(prediction["pixels"]))
                prediction = {**prediction, "pixels": counts.tolist()}
            mask = palette_image(found).resize((width, height), Image.Resampling.NEAREST)
            stream = BytesIO()
            mask.save(stream, "PNG")
            return {**prediction, "mask": b64encode(stream.getvalue()).decode()}

        made.finish = finish
        return made


class RequestPictures(Boxed, RequestImages):
    """Images to find objects in, each whole in a square."""

    def size_of(self, row: int) -> tuple[int, int]:
        return size_of_file(self.open(row))


class BoxReader(ImageReader):
    """Encoded images to find objects in. An answer's boxes are in pixels of the image, whose size it says too."""

    kind, whole = "boxes", True

    def images(self, items: Sequence[Item]) -> RequestPictures:
        return RequestPictures(items)

    def prepared(self, seen: Sequence[tuple[int, Tensor]], items: Sequence[Item]) -> Prepared:
        made, pictures = super().prepared(seen, items), self.images(items)
        pictures.fit(self.size, self.channels)
        beside, size = pictures.beside(made.at), torch.tensor([pictures.fitted_size(row) for row in made.at])
        made.batch["x"] = {"image": only_filled(made.batch["x"]["image"], size), "size": size}
        made.batch["beside"] = beside

        def finish(place: int, prediction: dict[str, Any], task: TaskInfo) -> dict[str, Any]:
            return {"height": beside[place].height, "width": beside[place].width, **prediction}

        made.finish = finish
        return made
