"""Digits in colour: what colour tells of the label, and that shape is as it was."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, chisquare

from sft_lightning.data import ColouredDigits, Digits
from sft_lightning.data.vision.base import ArrayImages
from sft_lightning.data.vision.coloured_digits import COLOURS
from sft_lightning.modules import PlainSFT
from sft_lightning.networks import MLP, spec
from tests.refused import refused
from tests.support import fit

SPLITS = ("train", "val", "test")


def ready(cls: Any = ColouredDigits, **settings: Any) -> Any:
    data = cls(**{"seed": 0, **settings})
    data.setup()
    return data


def images(data: Any, split: str) -> torch.Tensor:
    part = data.splits[split]
    assert isinstance(part.samples, ArrayImages)
    return part.samples.images[torch.from_numpy(part.rows)]


def colours(data: Any, split: str) -> np.ndarray:
    """Which of the ten colours each image has, by the share of red, green and blue in its light."""
    light = images(data, split).float().flatten(2).sum(2)
    shares = light / light.amax(1, keepdim=True)
    distance = (shares[:, None] - COLOURS).abs().amax(2)
    assert distance.amin(1).max() < 0.02, "an image has none of the ten colours, or more than one"
    return distance.argmin(1).numpy()


def independence(data: Any, split: str) -> float:
    """p of the chi-square test that colour is independent of the label."""
    targets = data.splits[split].targets
    table = np.zeros((10, 10))
    np.add.at(table, (targets, colours(data, split)), 1)
    return float(chi2_contingency(table).pvalue)


# ---- shape ----


@pytest.mark.parametrize("colour", ["label", "random", "grey"])
@pytest.mark.parametrize("split", SPLITS)
def test_brightness_is_that_of_the_grey_digits_to_the_byte(colour: Any, split: str) -> None:
    coloured, grey = ready(colour=colour, shots_per_class=5), ready(Digits, shots_per_class=5)
    assert torch.equal(images(coloured, split).amax(1, keepdim=True), images(grey, split))
    for name in ("rows", "targets"):
        assert np.array_equal(getattr(coloured.splits[split], name), getattr(grey.splits[split], name))
    assert coloured.task_info == grey.task_info


def test_grey_has_no_colour() -> None:
    seen = images(ready(colour="grey"), "train")
    assert torch.equal(seen, seen[:, :1].repeat(1, 3, 1, 1))


# ---- what colour tells ----


@pytest.mark.parametrize("split", SPLITS)
def test_colour_gives_the_label_away(split: str) -> None:
    data = ready(colour="label")
    assert np.array_equal(colours(data, split), data.splits[split].targets)


@pytest.mark.parametrize("split", SPLITS)
def test_random_colours_tell_nothing_of_the_label(split: str) -> None:
    data = ready(colour="random", val_fraction=0.3)
    p = independence(data, split)
    assert p > 0.001, f"colour and label go together: p = {p:.1e}"
    counts = np.bincount(colours(data, split), minlength=10)
    assert chisquare(counts).pvalue > 0.001, f"the colours are not equally likely: {counts.tolist()}"


@pytest.mark.parametrize("correlation", [0.0, 0.1, 0.5, 0.9])
def test_correlation_is_the_share_of_samples_in_their_class_colour(correlation: float) -> None:
    data = ready(correlation=correlation, val_fraction=0.01)
    targets, seen = data.splits["train"].targets, colours(data, "train")
    own = seen == targets
    spread = np.sqrt(correlation * (1 - correlation) / len(own))
    assert abs(own.mean() - correlation) <= 4 * spread
    others = np.bincount((seen - targets)[~own] % 10, minlength=10)
    assert others[0] == 0
    assert chisquare(others[1:]).pvalue > 0.001, f"the other nine colours are not equally likely: {others.tolist()}"


def test_validation_is_coloured_as_training_and_test_as_asked() -> None:
    data = ready(colour="label", test_colour="random")
    assert np.array_equal(colours(data, "val"), data.splits["val"].targets)
    assert independence(data, "test") > 0.001
    assert np.array_equal(colours(data, "test"), colours(ready(colour="random"), "test"))


# ---- what decides ----


def test_an_image_has_its_colour_whatever_the_seeds_the_subset_and_the_workers() -> None:
    def seen(**settings: Any) -> dict[tuple[str, int], torch.Tensor]:
        data = ready(**{"colour": "random", "batch_size": 64, **settings})
        return {
            (split, int(row)): image
            for split in SPLITS
            for batch in data.loader(split, 0, 1)
            for row, image in zip(batch["index"], batch["x"]["image"], strict=True)
        }

    whole = seen()
    for settings in ({"num_workers": 2}, {"seed": 5, "subset_seed": 3, "shots_per_class": 9, "batch_size": 8}):
        part = seen(**settings)
        assert part and all(torch.equal(whole[key], image) for key, image in part.items()), (
            f"{settings} changes colours"
        )


def test_fewer_classes_keep_their_colours() -> None:
    data = ready(classes=[7, 2])
    assert set(zip(data.splits["test"].targets.tolist(), colours(data, "test").tolist(), strict=True)) == {
        (0, 7),
        (1, 2),
    }


def test_fingerprints_tell_colourings_apart() -> None:
    prints = [ready(**s).fingerprint() for s in ({}, {"colour": "random"}, {"colour": "grey"}, {"correlation": 0.5})]
    assert len({p["train"] for p in prints}) == 4
    assert ready().fingerprint() == prints[0]
    other = ready(test_colour="random").fingerprint()
    assert {split for split in SPLITS if other[split] != prints[0][split]} == {"test"}


def test_a_network_can_learn_colour_alone_and_is_lost_without_it() -> None:
    data = ready(colour="label", test_colour="random", batch_size=32)
    module = PlainSFT(spec(MLP, in_features=192, hidden=[32]), lr=5e-3)
    trainer = fit(module, data, max_epochs=5)
    given_away = float(trainer.callback_metrics["val/accuracy"])
    by_shape = trainer.test(module, datamodule=data, verbose=False)[0]["test/accuracy"]
    assert given_away > 0.97
    assert by_shape < given_away - 0.2, f"right on {by_shape:.0%} of the digits whose colour is any class's"


def test_what_cannot_be_is_refused_in_one_line() -> None:
    for settings, key, *values in (
        ({"colour": "red"}, "data.colour", "'red'", "label, random or grey"),
        ({"test_colour": "red"}, "data.test_colour", "'red'", "label, random or grey"),
        ({"correlation": 1.5}, "data.correlation", "[0, 1]", "1.5"),
    ):
        with refused(key, *values):
            ColouredDigits(**settings)
