"""Reads a requirement, such as `retention/accuracy >= -0.01`: a metric, a direction and a margin or a level."""

import math
import re
from collections.abc import Collection
from dataclasses import dataclass, replace

from sft_lightning.core.errors import UserError
from sft_lightning.core.metric_info import SHARE, MetricInfo
from sft_lightning.tasks.error_rates import ERROR_RATES

KEY = "--require"
FORM = re.compile(r"\s*(?P<metric>[^\s<>=]+)\s*(?P<operator>>=|<=|>|<)\s*(?P<number>\S+)\s*")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
PLACE = r"^(val|test/retention|test|retention)/"
EXAMPLE = "write METRIC OPERATOR NUMBER, such as 'retention/accuracy >= -0.01' or 'val/accuracy > +0'"
OPPOSITE = {">": "<", ">=": "<=", "<": ">", "<=": ">="}
NOT_OF_SAMPLES = ("forgetting", "agreement", "lost_above_chance")
"""Metrics of retention that compare with the start; a requirement compares by itself"""


@dataclass(frozen=True)
class Requirement:
    """What the candidate must show."""

    text: str
    """As the user wrote it"""
    metric: str
    operator: str
    number: float
    """In the metric's unit"""
    signed: bool
    """Whether the number is a difference from the base; else it is a level of the candidate alone"""
    within: str = ""
    """The named set of the source task that is measured; empty for `retention` itself"""

    @property
    def on_source(self) -> bool:
        """Whether the metric is the source task's."""
        return "retention/" in self.metric

    @property
    def split(self) -> str:
        """'val' or 'test'."""
        return "test" if self.metric.startswith("test/") else "val"

    @property
    def name(self) -> str:
        """The task's name of the metric."""
        name = re.sub(PLACE, "", self.metric)
        return name.removeprefix(f"{self.within}/") if self.within else name

    def among(self, sets: Collection[str]) -> "Requirement":
        """The requirement on one of the named sets, if its metric begins with the name of one."""
        first, slash, _ = self.name.partition("/")
        return replace(self, within=first) if self.on_source and slash and first in sets else self


def parse(text: str) -> Requirement:
    """Reads a requirement. Raises UserError if it has another form, or a metric that is not measured sample by sample."""
    found = FORM.fullmatch(text)
    if found is None:
        raise UserError(KEY, f"'{text}' is not a requirement", EXAMPLE)
    metric, written = found["metric"], found["number"].replace("−", "-")
    if not NUMBER.fullmatch(written) or not math.isfinite(float(written)):
        raise UserError(KEY, f"'{text}': '{found['number']}' is not a number", EXAMPLE)
    if "drift/" in metric or ("retention/" in metric and metric.rpartition("/")[2] in NOT_OF_SAMPLES):
        raise UserError(
            KEY,
            f"'{text}': {metric} compares with the pretrained network already",
            "require the source metric itself, such as 'retention/accuracy >= -0.01', and --against start",
        )
    if not re.fullmatch(PLACE + r".+", metric):
        raise UserError(
            KEY, f"'{text}': {metric} is not measured on samples", "use val/…, test/…, retention/… or test/retention/…"
        )
    return Requirement(text.strip(), metric, found["operator"], float(written), written[0] in "+-")


def check(requirement: Requirement, info: MetricInfo) -> None:
    """Raises UserError if the requirement's direction is against the metric's, or its number cannot be meant."""
    upward = requirement.operator in (">", ">=")
    if upward != (info.better == "max"):
        more = "more" if info.better == "max" else "less"
        number = requirement.text.rpartition(requirement.operator)[2].strip()
        turned = number.translate(str.maketrans("+-−", "-++")) if requirement.number else number
        raise UserError(
            KEY,
            f"'{requirement.text}': {more} {requirement.name} is better, so this would ask for a worse model",
            f"write '{requirement.metric} {OPPOSITE[requirement.operator]} {turned}'",
        )
    if info.unit != SHARE or (may_exceed_one(requirement, info) and (requirement.signed or requirement.number > 0)):
        return
    if not requirement.signed and not 0 < requirement.number < 1:
        raise UserError(
            KEY,
            f"'{requirement.text}': a number without a sign is a level of the candidate alone, which for a share lies "
            "between 0 and 1",
            f"write '{requirement.metric} {requirement.operator} +{requirement.number:g}' to compare with the base",
        )
    if requirement.signed and not -1 < requirement.number < 1:
        raise UserError(
            KEY,
            f"'{requirement.text}': two shares differ by less than 1",
            f"give the margin as a share: one point is {0.01:+g}",
        )


def may_exceed_one(requirement: Requirement, info: MetricInfo) -> bool:
    """Whether the metric is an error rate, of which texts with more errors than words have more than 1."""
    return info.better == "min" and requirement.name.rpartition("/")[2] in ERROR_RATES


def remark(requirement: Requirement, info: MetricInfo) -> str:
    """Says what a number of 1 or more means for an error rate, if percent may have been meant; empty for others."""
    if not may_exceed_one(requirement, info) or abs(requirement.number) < 1:
        return ""
    sign = "+" if requirement.signed else ""
    return f"{requirement.number:{sign}g} is {100 * requirement.number:{sign}g} points of {requirement.name}"
