"""The cases and variants that this folder's tests run over are all there are."""

import pytest

from sft_lightning import modules, networks
from sft_lightning.core.errors import UserError
from sft_lightning.tasks import TASKS
from tests.exactness.cases import CASES, PAIRS, REFUSED, make
from tests.support import SOLVED, VARIANTS, fit


def test_every_task_has_a_case() -> None:
    classes = [getattr(networks, name) for name in networks.__all__]
    tuned = {task for c in classes if isinstance(c, type) and issubclass(c, networks.Network) for task in c.tasks}
    assert tuned <= set(TASKS)  # a task that no network is tuned for is asked of source heads alone
    covered = {case.task for case in CASES.values()}
    assert covered == tuned, (
        f"tasks without a case, or cases of no task: {covered ^ tuned}; add one to CASES in tests/exactness/cases.py"
    )


def test_every_registered_variant_is_tried_or_solved() -> None:
    own = {name: cls for name, cls in modules.VARIANTS.items() if cls.__module__.startswith("sft_lightning.")}
    tried = {cls for cls, _ in VARIANTS.values()}
    assert {name for name, cls in own.items() if cls not in tried} == SOLVED


def test_every_variant_meets_every_case() -> None:
    assert sorted(PAIRS + REFUSED) == sorted((case, variant) for case in CASES for variant in VARIANTS)


@pytest.mark.parametrize(("case", "variant"), REFUSED)
def test_what_cannot_work_is_refused_with_a_reason(root, case: str, variant: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=CASES[case].refused[variant]):
        fit(make(case, variant, root), CASES[case].data(), max_steps=1)
