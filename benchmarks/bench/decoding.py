"""A folder of JPEGs read by our data module, beside the decoder called by hand."""

import random
import time
from pathlib import Path
from typing import Any

from benchmarks.bench.arithmetic import noise, ratio, spread

TITLE = "A folder of JPEGs"
IMAGES, PIXELS, SIDE, BATCH = 96, 480, 224, 32
ROUNDS, QUICK = 5, 1
HOW = (
    f"{IMAGES} JPEGs of {PIXELS} × {PIXELS} pixels, resized to {SIDE}. By hand: PIL, then torchvision's resize and crop, "
    f"stacked in batches of {BATCH}. Ours: one epoch of ImageFolder's training loader, without workers. Shuffled turns "
    "in one process, one thread; medians of CPU time."
)


def write_images(place: Path) -> list[Path]:
    """Smooth random images of a photograph's size, in two classes."""
    import numpy as np
    from PIL import Image

    draw, paths = np.random.default_rng(0), []
    for number in range(IMAGES):
        folder = place / "train" / f"class_{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        small = draw.integers(0, 255, (60, 60, 3), dtype=np.uint8)
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(small).resize((PIXELS, PIXELS), Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


def by_hand(paths: list[Path]) -> None:
    import numpy as np
    import torch
    from PIL import Image
    from torchvision.transforms.v2 import functional as v2

    batch: list[Any] = []
    for path in paths:
        with Image.open(path) as image:
            pixels = torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1)
        batch.append(v2.center_crop(v2.resize(pixels, [SIDE, SIDE], antialias=True), [SIDE, SIDE]))
        if len(batch) == BATCH:
            torch.stack(batch)
            batch.clear()


def loader_of(place: Path) -> Any:
    """A training loader that has read nothing yet."""
    from sft_lightning.core.structures import InputSpec
    from sft_lightning.data import ImageFolder

    data = ImageFolder(root=str(place), image_size=SIDE, batch_size=BATCH, seed=0)
    data.setup("fit")
    data.settle(InputSpec("image", "network"))
    return data.loader("train", 0, 1)


def measure(place: Path, quick: bool) -> dict[str, Any]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    paths, shuffled = write_images(place), random.Random(0)
    arms = ("by hand", "by hand once more (A/A)", "ours, the first epoch", "ours, later epochs")
    found: dict[str, list[float]] = {name: [] for name in arms}
    try:
        for number in range((QUICK if quick else ROUNDS) + 1):
            order = list(arms[:3])
            shuffled.shuffle(order)
            for name in order:
                loader = loader_of(place) if name == arms[2] else None
                began = time.process_time()
                epoch(loader) if loader is not None else by_hand(paths)
                again = time.process_time()
                if number:
                    found[name].append(again - began)
                if loader is not None:
                    epoch(loader)
                    if number:
                        found[arms[3]].append(time.process_time() - again)
    finally:
        torch.set_num_threads(threads)
    hand, more, first, later = found.values()
    held = noise(more, hand)
    return {
        "title": TITLE,
        "how": f"{HOW} A/A control: CPU {held.ratio:.3f} ({held.verdict}). Ours ÷ by hand: {ratio(first, hand).median:.2f} in "
        f"the first epoch, {ratio(later, hand).median:.3f} later, from memory.",
        "rows": [{"what": name, "cpu": spread(seconds).median} for name, seconds in found.items()],
        "turns": found,
        "noise": {"cpu": held.to_dict()},
        "decoding_over_by_hand": ratio(first, hand).median,
    }


def epoch(loader: Any) -> None:
    for _ in loader:
        pass
