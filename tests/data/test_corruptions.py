"""Corruptions of images against scipy, PIL and numpy."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from sft_lightning.data.vision.corruptions import CORRUPTIONS, SETTINGS, corrupt
from tests.refused import refused

GENERATOR = np.random.default_rng(0)
SMALL = torch.from_numpy(GENERATOR.integers(0, 256, (3, 3, 16, 12), dtype=np.uint8))
LARGE = torch.from_numpy(GENERATOR.integers(0, 256, (2, 1, 70, 66), dtype=np.uint8))


@pytest.mark.parametrize("images", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("severity", [1, 5])
def test_each_is_what_its_recipe_says(images: torch.Tensor, severity: int) -> None:
    x, rows = images.numpy() / 255, list(range(7, 7 + len(images)))
    found = {how: corrupt(images, how, severity, rows).numpy().astype(float) for how in CORRUPTIONS}
    of = {how: strengths[images is LARGE][severity - 1] for how, strengths in SETTINGS.items()}
    blurred = gaussian_filter(x, (0, 0, of["blur"], of["blur"]), mode="nearest", truncate=4.0)
    mean = x.mean((2, 3), keepdims=True)
    added = np.stack([np.random.default_rng(row).standard_normal(x.shape[1:]) for row in rows])
    expected = {"blur": blurred, "contrast": (x - mean) * of["contrast"] + mean, "noise": x + of["noise"] * added}
    for how, values in expected.items():
        assert np.abs(found[how] - np.clip(values, 0, 1) * 255).max() <= 0.51, how
    for image, made in zip(images, found["jpeg"], strict=True):
        file = io.BytesIO()
        pixels = image.permute(1, 2, 0).numpy()
        Image.fromarray(pixels[..., 0] if len(image) == 1 else pixels).save(file, "JPEG", quality=int(of["jpeg"]))
        decoded = np.asarray(Image.open(file), dtype=float)
        assert np.abs(made.transpose(1, 2, 0).squeeze() - decoded).mean() < 3, "not as PIL encodes it"


def test_a_samples_noise_does_not_depend_on_its_batch() -> None:
    together = corrupt(SMALL, "noise", 3, [4, 5, 6])
    assert torch.equal(together[1:2], corrupt(SMALL[1:2], "noise", 3, [5]))
    assert not torch.equal(corrupt(SMALL[:1], "noise", 3, [4]), corrupt(SMALL[:1], "noise", 3, [5]))


def test_what_is_no_image_of_8_bits_is_refused() -> None:
    with refused("data", "8 bits"):
        corrupt(SMALL.float(), "blur", 1, [0, 1, 2])
    with refused("data", "2", "jpeg"):
        corrupt(SMALL[:, :2], "jpeg", 1, [0, 1, 2])
