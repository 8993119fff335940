"""Arms of a study: paired over its seeds, as the study's own statistics are."""

import csv
from pathlib import Path

import pytest

from sft_lightning.cli.main import main
from sft_lightning.gate.arms import decide_arms, find_arm
from sft_lightning.gate.requirement import parse
from sft_lightning.stats.differences import compare_with_baseline
from sft_lightning.stats.equivalence import equivalence
from tests.refused import refused
from tests.report.written import write_study

METRIC = "test/retention/accuracy"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("arms") / "study")


def values(study: Path, amount: str) -> dict[str, dict[int, float | None]]:
    """Arm → seed → value of the chosen runs."""
    found: dict[str, dict[int, float | None]] = {}
    for row in csv.DictReader((study / "points.csv").open()):
        if row["selected"] == "1" and row["shots_per_class"] == amount:
            found.setdefault(row["arm"], {})[int(row["seed"])] = float(row[METRIC])
    return found


def test_each_cell_is_tested_as_the_studys_equivalence_test_does(study: Path) -> None:
    candidate = find_arm(f"{study}:logit-anchor")
    assert candidate is not None
    cells = [str(cell.at["shots_per_class"]) for cell in candidate.comparison.cells]
    assert len(cells) > 1
    decisions = decide_arms(candidate, f"{study}:plain", [parse(f"{METRIC} >= -0.01"), parse(f"{METRIC} > +0")], 0.05)
    assert len(decisions) == 2 * len(cells) and decisions[0].counted == "seed"
    for amount, no_worse, better in zip(cells, decisions[: len(cells)], decisions[len(cells) :], strict=True):
        held = {name: of for name, of in values(study, amount).items() if name in ("plain", "logit-anchor")}
        (wanted,) = equivalence(held, "plain", 0.01)
        assert no_worse.test.p_above == pytest.approx(wanted.p_not_worse) and no_worse.test.n == wanted.n
        (difference,) = compare_with_baseline(held, "plain")
        assert better.test.value == pytest.approx(difference.mean)
        assert 2 * min(better.test.p_above, better.test.p_below) == pytest.approx(difference.p)


def test_the_command_decides_between_arms(study: Path, capfd: pytest.CaptureFixture[str]) -> None:
    required = ["--require", f"{METRIC} >= -0.01"]
    assert main(["gate", f"{study}:logit-anchor", "--against", f"{study}:plain", *required]) == 0
    assert "seeds" in capfd.readouterr().out
    assert main(["gate", f"{study}:plain", "--against", f"{study}:logit-anchor", *required]) == 3
    assert main(["gate", f"{study}:plain", "--against", f"{study}:plain", "--require", f"{METRIC} > +0"]) == 4
    assert main(["gate", f"{study}:plain", "--require", f"{METRIC} >= 0.2"]) == 0


def test_what_no_study_can_tell_is_refused(study: Path) -> None:
    with refused(f"{study}:plane", "plain"):
        find_arm(f"{study}:plane")
    assert find_arm(str(study)) is None and find_arm("nowhere:plain") is None
    plain = find_arm(f"{study}:plain")
    assert plain is not None
    with refused("--against", "runs/one"):
        decide_arms(plain, "runs/one", [parse(f"{METRIC} > +0")], 0.05)
    with refused("--require", "test/retention/accurate", METRIC):
        decide_arms(plain, None, [parse("test/retention/accurate > 0.5")], 0.05)
