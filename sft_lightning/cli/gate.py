"""`gate`: decides whether a model may replace another one, by tests on the same samples."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sft_lightning.cli.parser import Parser
from sft_lightning.core.errors import UserError, escape_controls

if TYPE_CHECKING:
    from sft_lightning.gate.decide import Decision
    from sft_lightning.gate.requirement import Requirement

ALPHA = 0.05


def make_parser() -> Parser:
    """Builds the parser of `gate`."""
    parser = Parser(
        "gate",
        description="Decide whether a model may replace another one. Both answer the same samples, and each requirement is "
        "tested. Exit code 0: all requirements are shown; 3: one is shown not to hold; 4: so many samples cannot decide it; "
        "2: a mistake in what was given.",
    )
    parser.add_argument(
        "model",
        metavar="RUN_OR_EXPORT",
        help="the candidate: a finished run, an export of one, or STUDY:ARM, which is tested over the study's seeds",
    )
    parser.add_argument(
        "--against",
        metavar="BASE",
        help="a run, an export, another arm of the study, or start: the pretrained network from which the candidate started; "
        "needed for requirements with a sign",
    )
    parser.add_argument(
        "--require",
        action="append",
        default=[],
        metavar="REQUIREMENT",
        help="METRIC OPERATOR NUMBER; may be given several times. A number with a sign is a difference candidate - base in the "
        "metric's unit: 'retention/accuracy >= -0.01' (worse by less than one point), 'val/accuracy > +0' (better), "
        "'val/loss <= +0.02'. A number without a sign is a level of the candidate alone: 'test/accuracy >= 0.9'",
    )
    parser.add_argument(
        "--alpha",
        type=float,
        default=ALPHA,
        help="chance of a wrong verdict for each requirement, between 0 and 0.5; default 0.05",
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a table for a comment on a change")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page that works offline")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers")
    return parser


def of_models(model: str, against: str | None, requirements: "Sequence[Requirement]", alpha: float) -> "list[Decision]":
    """Asks two models on the same samples."""
    from sft_lightning.gate.decide import decide
    from sft_lightning.gate.opened import START, open_model, open_start

    candidate, base = open_model(model), None
    if against is not None:
        base = open_start(candidate) if against == START else open_model(against)
    return decide(candidate, base, requirements, alpha)


def main(arguments: list[str]) -> int:
    """Runs `gate`. Returns 0, 3 or 4, or raises UserError."""
    given = make_parser().parse_args(arguments)
    from sft_lightning.gate.requirement import EXAMPLE, parse

    if not given.require:
        raise UserError("--require", "nothing is required", EXAMPLE)
    if not 0 < given.alpha < 0.5:
        raise UserError("--alpha", f"must be between 0 and 0.5, got {given.alpha:g}", "use 0.05")
    requirements = [parse(text) for text in given.require]
    differences = any(requirement.signed for requirement in requirements)
    if differences and given.against is None:
        raise UserError(
            "--against", "is missing, and a requirement with a sign is a difference from it", "name the base"
        )
    if given.against is not None and not differences:
        raise UserError(
            "--against",
            "has no effect, because a number without a sign is a level of the candidate alone",
            "leave it out, or write numbers with a sign, such as '>= -0.01'",
        )
    from sft_lightning.cli.quiet import quieten
    from sft_lightning.gate import written
    from sft_lightning.gate.arms import decide_arms, find_arm
    from sft_lightning.gate.decide import CODES, overall

    quieten()
    if (arm := find_arm(given.model)) is not None:
        decisions = decide_arms(arm, given.against, requirements, given.alpha)
    else:
        decisions = of_models(given.model, given.against, requirements, given.alpha)
    about = {
        "candidate": escape_controls(given.model),
        "against": escape_controls(given.against or ""),
        "alpha": given.alpha,
    }
    for option, make in (("markdown", written.markdown), ("html", written.html), ("json", written.to_json)):
        if (path := getattr(given, option)) is not None:
            written.write(f"--{option}", path, make(decisions, about))
    print("\n".join(written.lines(decisions, given.alpha)))
    return CODES[overall(decisions)]
