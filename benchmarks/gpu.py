"""What only a GPU can show, in one script of less than ten minutes; `--small` runs the same on a CPU, with tiny networks.

    python -m benchmarks.gpu                 # writes benchmarks/results/bench-gpu/gpu.json
    python -m benchmarks.gpu --small         # a minute or two, writes only with --out

- Text: a classifier of BERT-base's shape with random weights, texts of random lengths, bfloat16: ours (dynamic padding, grouped
  by length, compiled, each anchor) beside Hugging Face Trainer. Samples and useful tokens per second, the share of the card's
  arithmetic that they need (MFU), and the peak of memory.
- Images: ViT-S/16 and ResNet-50 at 224 pixels from a folder of JPEGs: the share of a step in which it waits for data.
- Seeds: eight small networks on one card, stacked by torch.func, beside one after the other.

Times are wall times between two points at which the device was waited for. Each part says so if it fails, and the others go on.
"""

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.bench.gpu_texts import of_texts
from benchmarks.bench.results import ROOT, about
from benchmarks.bench.stopwatch import SMALL, Sizes, attempt, fit, wait
from sft_lightning.data import ImageFolder
from sft_lightning.modules import PlainSFT
from sft_lightning.networks import spec

PLACE = ROOT / "benchmarks/results/bench-gpu"
# ---- images ----


def of_images(sizes: Sizes, place: Path, found: dict[str, Any]) -> None:
    import numpy as np
    from PIL import Image

    draw, side = np.random.default_rng(0), sizes.image * 5 // 4
    for number in range(sizes.images):
        folder = place / "jpeg" / ("train" if number % 8 else "val") / f"class_{number // 8 % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        small = draw.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg")
    for name in sizes.image_networks:
        data = ImageFolder(
            root=str(place / "jpeg"), image_size=sizes.image, batch_size=sizes.image_batch, seed=0,
            num_workers=sizes.workers, augment=["flip"],
        )  # fmt: skip
        module = PlainSFT(spec("Timm", name=name), lr=1e-4)
        attempt(found, f"{name}, {sizes.image} pixels", lambda m=module, d=data: fit(m, d, sizes, place))


# ---- seeds ----


def of_seeds(sizes: Sizes, place: Path, found: dict[str, Any]) -> None:
    attempt(found, "8 seeds of an MLP, stacked", lambda: seeds(sizes, stacked=True))
    attempt(found, "8 seeds of an MLP, one after the other", lambda: seeds(sizes, stacked=False))


def seeds(sizes: Sizes, stacked: bool, count: int = 8) -> dict[str, float | None]:
    """Milliseconds of a step of all seeds together: forward, backward and SGD."""
    from torch.func import functional_call, grad, stack_module_state, vmap

    device = "cuda" if torch.cuda.is_available() else "cpu"
    networks = [nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10)).to(device) for _ in range(count)]
    x, y = torch.randn(64, 64, device=device), torch.arange(64, device=device) % 10

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(functional_call(networks[0], weights, (x,)), y)

    together = {n: w.detach() for n, w in stack_module_state(networks)[0].items()}  # type: ignore[arg-type]
    each = [{n: w[i].clone() for n, w in together.items()} for i in range(count)]
    of_all: Callable[..., Any] = vmap(grad(loss))

    def step() -> None:
        if stacked:
            for name, gradient in of_all(together).items():
                together[name] -= 0.01 * gradient
            return
        for weights in each:
            for name, gradient in grad(loss)(weights).items():
                weights[name] -= 0.01 * gradient

    for _ in range(sizes.warm):
        step()
    wait()
    began = time.perf_counter()
    for _ in range(sizes.steps):
        step()
    wait()
    return {"ms_a_step": 1e3 * (time.perf_counter() - began) / sizes.steps}


# ---- the command ----


def main(arguments: list[str] | None = None) -> int:
    """The command; 1 if a part failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="tiny networks, on a CPU too")
    parser.add_argument("--out", type=Path, help=f"folder of the result; default {PLACE.relative_to(ROOT)}")
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    if not options.small and not torch.cuda.is_available():
        parser.error("there is no GPU here: give --small, or run it where there is one")
    sizes, found = SMALL if options.small else Sizes(), dict[str, Any]()
    with tempfile.TemporaryDirectory(prefix="gpu-") as place:
        for part in (of_texts, of_images, of_seeds):
            attempt_part(part, sizes, Path(place), found)
    said = about(given, None)
    said["command"] = said["command"].replace("benchmarks.run", "benchmarks.gpu")
    out = options.out or (None if options.small else PLACE)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "gpu.json").write_text(
            json.dumps({"about": said, "small": options.small, "found": found}, indent=1) + "\n"
        )
    return 1 if any("failed" in numbers for numbers in found.values()) else 0


def attempt_part(part: Callable[..., None], sizes: Sizes, place: Path, found: dict[str, Any]) -> None:
    """A part that cannot begin is one that failed."""
    try:
        part(sizes, place, found)
    except Exception as error:
        traceback.print_exc()
        found[part.__name__] = {"failed": f"{type(error).__name__}: {error}"[:300]}


if __name__ == "__main__":
    sys.exit(main())
