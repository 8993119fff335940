"""Values of a validation reach loggers and callbacks as `log_dict` would bring them."""

from typing import Any

import pytest
from lightning.pytorch.loggers import Logger

from sft_lightning.callbacks import RetentionMonitor
from sft_lightning.evaluation import retention
from sft_lightning.modules import measuring
from tests.support import OLD, digits, fit, make


class Kept(Logger):
    """Keeps everything that it is given."""

    name, version = "kept", 0

    def __init__(self) -> None:
        self.lines: list[tuple[dict[str, float], int | None]] = []

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.lines.append((dict(metrics), step))


def test_loggers_callbacks_and_results_get_the_same_values(pretrained: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured() -> Any:
        logger = Kept()
        module = make("distill-features-cosine", pretrained)
        trainer = fit(module, digits(), max_epochs=2, callbacks=[RetentionMonitor(digits(OLD))], logger=logger)
        after = {name: value.item() for name, value in trainer.callback_metrics.items()}
        return logger.lines, after, trainer.validate(module, digits(), verbose=False), dict(trainer.logged_metrics)

    ours = measured()
    for place in (retention, measuring):
        monkeypatch.setattr(place, "log_measured", lambda module, values: module.log_dict(dict(values)))
    theirs = measured()
    assert ours == theirs
    assert ours[2][0]["retention/accuracy"] and ours[1]["val/loss"]
