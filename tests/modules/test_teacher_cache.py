"""The teacher's outputs are computed once a sample, and training has the bits that it has without a cache."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sft_lightning.ablation.plan import address
from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import Batch, Output
from sft_lightning.data import Digits
from sft_lightning.modules import DistillSFT
from sft_lightning.modules.teacher_cache import TeacherCache
from tests.refused import refused
from tests.support import NEW, FewDigits, fit, make, weights


class Called(DistillSFT):
    """Counts the batches that pass through the teacher in training."""

    calls = 0

    def teacher_output(self, batch: Batch) -> Output:
        self.calls += bool(batch["train"])
        return super().teacher_output(batch)


def trained(pretrained: str, how: str, size: int = 43, **settings: Any) -> Called:
    module = make("distill-features-cosine", pretrained, teacher_cache=how, **settings)
    module.__class__ = Called
    fit(module, FewDigits((size, 21, 21)), max_epochs=4)
    assert isinstance(module, Called)
    return module


def equal(one: DistillSFT, other: DistillSFT) -> bool:
    return all(torch.equal(w, weights(other)[n]) for n, w in weights(one).items())


@pytest.mark.parametrize("settings", [{}, {"on": "source_logits", "distance": "kl"}], ids=["features", "kl"])
def test_weights_have_the_bits_of_the_teacher_that_is_always_called(pretrained: str, settings: dict[str, Any]) -> None:
    without, cached = (trained(pretrained, how, **settings) for how in ("none", "memory"))
    assert equal(without, cached)
    assert without.calls == 4 * 6 and cached.cached is not None and not cached.cached.why_off
    assert (
        cached.cached.used >= 5 and cached.calls + cached.cached.used == without.calls + 4
    )  # 4 to show that bits are equal


def test_a_later_fit_takes_the_outputs_from_disk(
    pretrained: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFT_CACHE_DIR", str(tmp_path))
    without, first = trained(pretrained, "none", 40), trained(pretrained, "disk", 40)
    (file,) = (tmp_path / "teacher").glob("*.pt")
    second, seeded = trained(pretrained, "disk", 40), trained(pretrained, "disk", 40, lr=1e-2)
    assert equal(without, first) and equal(without, second) and not equal(without, seeded)
    assert first.calls == 5 + 4 and second.calls == seeded.calls == 4
    file.write_bytes(b"damaged")
    assert equal(without, trained(pretrained, "disk", 40))


def test_a_teacher_whose_outputs_depend_on_the_batch_is_always_called(
    pretrained: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = DistillSFT.teacher_output

    def beside_others(self: DistillSFT, batch: Batch) -> Output:
        found = plain(self, batch)
        return found._replace(features=found.features + 1e-7 * found.features.mean(0))

    monkeypatch.setattr(DistillSFT, "teacher_output", beside_others)
    without = trained(pretrained, "none")
    with pytest.warns(UserWarning, match="teacher_cache is off: a sample's output has other bits"):
        cached = trained(pretrained, "memory")
    assert equal(without, cached) and cached.cached is not None and cached.cached.used == 0


def test_views_that_vary_are_refused(pretrained: str) -> None:
    with refused("model.teacher_cache", "data.augment is [crop]", "leave augment out"):
        module = make("distill-features-cosine", pretrained, teacher_cache="memory")
        fit(module, Digits(augment=["crop"], classes=NEW), max_epochs=2)


def batch_of(x: torch.Tensor, rows: list[int]) -> Batch:
    return {"x": {"image": x}, "rows": rows}


def as_it_is(batch: Batch) -> Output:
    return Output(batch["x"]["image"], batch["x"]["image"])


def test_a_view_that_changed_without_a_word_is_seen() -> None:
    cache, x = TeacherCache(4), torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    cache.output(batch_of(x, [0, 1, 2, 3]), as_it_is)
    assert torch.equal(cache.output(batch_of(x[[2, 0, 3, 1]], [2, 0, 3, 1]), as_it_is).logits, x[[2, 0, 3, 1]])
    changed = batch_of(torch.cat([x[:3], x[3:].flip(1)]), [0, 1, 2, 3])
    with pytest.raises(UserError, match="the view of a sample has changed"):
        _ = [cache.output(changed, as_it_is) for _ in range(4)]  # each batch has another sample compared


def test_outputs_of_several_rows_a_sample_and_too_large_ones_are_refused() -> None:
    x = torch.randn(2, 3)
    with refused("model.teacher_cache", "one output for each sample"):
        TeacherCache(2).output(batch_of(x, [0, 1]), lambda batch: Output(x.repeat(2, 1), x))
    with refused("model.teacher_cache", "2.5 GiB"):
        TeacherCache(1 << 27).output(batch_of(x, [0, 1]), lambda batch: Output(x, x[:, :1]))


def test_a_study_has_the_same_points_with_and_without_it() -> None:
    config = {"model": {"class_path": "DistillSFT", "init_args": {"lr": 0.1}}}
    with_it = {"model": {"class_path": "DistillSFT", "init_args": {"lr": 0.1, "teacher_cache": "disk"}}}
    assert address(config) == address(with_it)
