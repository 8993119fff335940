"""The cases and variants that this folder's tests run over are all there are."""

from typing import Any

import pytest

from sft_lightning import modules, networks
from sft_lightning.core.registry import Registry
from sft_lightning.tasks import TASKS
from tests.exactness.cases import CASES, PAIRS, REFUSED, make
from tests.refused import refused
from tests.support import EXTENDS, ON_OWN_CASE, SOLVED, VARIANTS, fit


def of_ours(registry: Registry[Any]) -> set[type]:
    """The project's own classes; tests and users register theirs too."""
    return {cls for cls in registry.values() if cls.__module__.startswith("sft_lightning.")}


def test_every_task_has_a_case() -> None:
    tuned = {task for network in of_ours(networks.NETWORKS) for task in network.tasks}
    assert tuned <= set(TASKS)  # a task that no network is tuned for is asked of source heads alone
    covered = {case.task for case in CASES.values()}
    assert covered == tuned, (
        f"tasks without a case, or cases of no task: {covered ^ tuned}; add one to CASES in tests/exactness/cases.py"
    )


def test_every_registered_variant_is_tried_or_solved() -> None:
    untried = of_ours(modules.VARIANTS) - {cls for cls, _ in VARIANTS.values()}
    assert {cls.__name__ for cls in untried} == SOLVED | EXTENDS
    assert {cls.__name__ for cls, _ in ON_OWN_CASE.values()} == EXTENDS


def test_every_variant_meets_every_case() -> None:
    assert sorted(PAIRS + REFUSED) == sorted((case, variant) for case in CASES for variant in VARIANTS)


@pytest.mark.parametrize(("case", "variant"), REFUSED)
def test_what_cannot_work_is_refused_with_a_reason(root, case: str, variant: str) -> None:  # type: ignore[no-untyped-def]
    with refused(*CASES[case].refused[variant]):
        fit(make(case, variant, root), CASES[case].data(), max_steps=1)
