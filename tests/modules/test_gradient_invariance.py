"""What a gradient scaler skips moves nothing; tests/exactness has all else on how the work is split."""

from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from tests.refused import refused
from tests.support import VARIANTS, FewDigits, Recorder, Scaled, digits, fit, make, weights


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_that_the_gradient_scaler_skips_moves_nothing(pretrained: str, variant: str) -> None:
    recorder = Recorder()

    class Displace(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            with torch.no_grad():
                pl_module.network.encoder[1].weight.add_(0.1)  # so that there is something to pull back
            pl_module.network.head.bias.register_hook(lambda gradient: gradient * float("inf"))

    module = make(variant, pretrained, lr=1e-2)
    fit(module, digits(), max_steps=1, plugins=[Scaled()], callbacks=[Displace(), recorder])
    assert not all(g.isfinite().all() for g in recorder.grads[0].values()), "the step was not one to skip"
    different = [n for n, v in recorder.start.items() if not torch.equal(v, weights(module)[n])]
    assert not different, f"{variant}: a skipped step moves {different}"


def test_a_batch_that_does_not_divide_is_refused_with_a_number_to_use(pretrained: str) -> None:
    with refused("data.batch_size", 6, "accumulate_grad_batches 4", "use 8"):
        fit(make("plain", pretrained), FewDigits(batch_size=6), max_steps=1, accumulate_grad_batches=4)
