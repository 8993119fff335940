"""BatchNorm statistics drift though weights stand still: it is measured, and said where an anchor is trained."""

import numpy as np
import pytest

from sft_lightning.callbacks import Console, RetentionMonitor
from sft_lightning.modules import SFTModule
from sft_lightning.networks import spec
from tests.support import OLD, VARIANTS, NormNet, digits, fit, make


def trained(folder: str, variant: str, **settings: object) -> tuple[SFTModule, dict[str, float], RetentionMonitor]:
    cls, arguments = VARIANTS[variant]
    module = cls(spec(NormNet, pretrained=folder), lr=1e-12, **{**arguments, **settings})
    monitor = RetentionMonitor(digits(OLD) if cls.needs_source else None)
    trainer = fit(module, digits(), max_epochs=2, callbacks=[monitor, Console("here")])
    return module, {k: float(v) for k, v in trainer.callback_metrics.items()}, monitor


def test_statistics_that_move_have_a_gauge_where_weights_have_not_moved(pretrained_norms: str) -> None:
    module, values, monitor = trained(pretrained_norms, "plain")
    assert monitor.before["drift/buffers_relative"] == 0.0
    start, now = (
        np.concatenate([network.get_buffer(f"encoder.2.running_{what}").double().numpy() for what in ("mean", "var")])
        for network in (module.teacher.network, module.network)  # type: ignore[union-attr]
    )
    wanted = np.linalg.norm(now - start) / np.linalg.norm(start)
    assert values["drift/buffers_relative"] == pytest.approx(wanted, rel=1e-6) and wanted > 0.05
    assert values["drift/weights_relative"] < 1e-9 and values["drift/kl"] > 1e-3, "outputs moved, and no weight did"


def test_frozen_statistics_do_not_move_and_networks_without_any_have_no_gauge(
    pretrained_norms: str, pretrained: str
) -> None:
    _, values, _ = trained(pretrained_norms, "plain", freeze_batchnorm_stats=True)
    assert values["drift/buffers_relative"] == 0.0 and values["drift/kl"] < 1e-9
    trainer = fit(make("plain", pretrained), digits(), max_epochs=1)
    assert "drift/buffers_relative" not in trainer.callback_metrics


@pytest.mark.parametrize(
    ("variant", "settings", "said"),
    [
        ("distill-logits-mse", {}, True),
        ("l2sp-loss", {}, True),
        ("plain", {}, False),
        ("distill-logits-mse", {"freeze_batchnorm_stats": True}, False),
        ("distill-logits-mse", {"freeze": "all-but-head"}, False),
    ],
)
def test_a_fit_says_at_its_start_that_statistics_move_under_an_anchor(
    pretrained_norms: str, capsys: pytest.CaptureFixture[str], variant: str, settings: dict[str, object], said: bool
) -> None:
    trained(pretrained_norms, variant, **settings)
    note = "note: the statistics of 1 BatchNorm layer change with every batch, so the anchor is not 0 at the start"
    assert (note in capsys.readouterr().out) == said
