"""Finds a point's cost from its records: the time of its fit, and the expected time of its test."""

from typing import Any

from sft_lightning.ablation.study_dir import PointStatus

BACKWARD = 3.0
"""Cost of a training step, relative to a pass without gradient"""


def seconds_of_fit(standing: PointStatus) -> float | None:
    """Seconds of a finished fit, all its attempts together; None for other fits."""
    if not standing.finished:
        return None
    fitted = float((standing.record or {}).get("times", {}).get("fit_s", 0.0))  # of all attempts, as last.ckpt keeps it
    return max(fitted, float(standing.of("fit").get("seconds", 0.0))) or None


def seconds_of_test(standing: PointStatus, config: dict[str, Any]) -> float:
    """Expected seconds of a finished fit's test: its samples at the pace of the fit. 0 if unknown."""
    record, trainer = standing.record or {}, config.get("trainer", {})
    fit, data = seconds_of_fit(standing), config.get("data", {}).get("init_args", {})
    steps = record.get("steps") or 0
    sizes = [record.get(part, {}).get("sizes", {}) for part in ("data", "retention")]
    if fit is None or not steps or not sizes[0]:
        return 0.0

    def samples(split: str) -> float:
        limit, batch = trainer.get(f"limit_{split}_batches"), data.get("eval_batch_size") or data.get("batch_size") or 1
        rows = [float(of.get(split, 0)) for of in sizes]
        if isinstance(limit, float):
            rows = [n * limit for n in rows]
        elif isinstance(limit, int) and not isinstance(limit, bool):
            rows = [min(n, limit * batch) for n in rows]
        return sum(rows)

    every, epochs = trainer.get("val_check_interval"), record.get("epochs") or 1
    validations = (
        steps / every
        if isinstance(every, int) and every > 1
        else epochs / (trainer.get("check_val_every_n_epoch") or 1)
    )
    passes = BACKWARD * steps * (data.get("batch_size") or 1) + validations * samples("val")
    return fit * samples("test") / passes
