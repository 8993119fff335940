"""What a requirement may say, and which ones are refused with the way to write them."""

import pytest

from sft_lightning.core.metric_info import MetricInfo
from sft_lightning.gate.requirement import Requirement, check, parse, remark
from tests.refused import refused

ACCURACY, LOSS = MetricInfo("accuracy", "max", "share"), MetricInfo("loss", "min", "nats")


def test_a_number_with_a_sign_is_a_difference_and_one_without_is_a_level() -> None:
    assert parse("retention/accuracy >= -0.01") == Requirement(
        "retention/accuracy >= -0.01", "retention/accuracy", ">=", -0.01, True
    )
    assert parse("val/accuracy>+0").signed and parse(" val/loss <= +2e-2 ").number == 0.02
    assert parse("val/accuracy ≥ -0.01".replace("≥", ">=").replace("-", "−")).number == -0.01
    level = parse("test/accuracy >= .9")
    assert (level.signed, level.number, level.split, level.on_source) == (False, 0.9, "test", False)


@pytest.mark.parametrize(
    ("metric", "on_source", "split", "name"),
    [
        ("val/f1_macro", False, "val", "f1_macro"),
        ("test/loss", False, "test", "loss"),
        ("retention/accuracy", True, "val", "accuracy"),
        ("test/retention/accuracy", True, "test", "accuracy"),
        ("test/entity_f1/person", False, "test", "entity_f1/person"),
    ],
)
def test_the_metrics_name_says_which_data_and_split(metric: str, on_source: bool, split: str, name: str) -> None:
    found = parse(f"{metric} > +0")
    assert (found.on_source, found.split, found.name) == (on_source, split, name)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("val/accuracy", "METRIC OPERATOR NUMBER"),
        ("val/accuracy == 0.9", "METRIC OPERATOR NUMBER"),
        ("val/accuracy > much", "much"),
        ("val/accuracy > nan", "nan"),
        ("val/accuracy > 1%", "1%"),
        ("accuracy > +0", "val/…"),
        ("train/loss < -0", "val/…"),
        ("retention/forgetting <= 0.01", "retention/accuracy >= -0.01"),
        ("drift/kl < 1", "--against start"),
    ],
)
def test_what_is_no_requirement_is_refused_with_what_to_write(text: str, value: str) -> None:
    with refused("--require", text, value):
        parse(text)


@pytest.mark.parametrize(
    ("text", "info", "value"),
    [
        ("val/accuracy <= -0.01", ACCURACY, "val/accuracy >= +0.01"),
        ("val/accuracy < 0.9", ACCURACY, "val/accuracy > 0.9"),
        ("val/loss >= +0.1", LOSS, "val/loss <= -0.1"),
        ("val/accuracy > 0", ACCURACY, "val/accuracy > +0"),
        ("val/accuracy >= 90", ACCURACY, "between 0 and 1"),
        ("val/accuracy >= -1", ACCURACY, "+0.01"),
    ],
)
def test_a_direction_or_number_that_cannot_be_meant_is_refused(text: str, info: MetricInfo, value: str) -> None:
    with refused("--require", value):
        check(parse(text), info)


@pytest.mark.parametrize(
    "text", ["test/wer < -1.5", "test/wer <= +2", "test/cer_plain <= 1.2", "retention/old/wer <= +1"]
)
def test_error_rates_may_exceed_1_and_the_verdict_says_how_much_that_is(text: str) -> None:
    info = MetricInfo("wer", "min", "share")
    check(parse(text), info)
    number = parse(text).number
    assert f"{100 * number:g} points" in remark(parse(text), info)
    assert not remark(parse("test/wer <= +0.01"), info)
    with refused("--require", "between 0 and 1"):
        check(parse("test/wer <= 0"), info)


def test_the_metrics_own_direction_is_taken() -> None:
    check(parse("val/loss <= +0.02"), LOSS)
    check(parse("val/loss < -0"), LOSS)
    check(parse("val/accuracy >= -0.01"), ACCURACY)
