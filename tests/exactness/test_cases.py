"""The cases and variants that this folder's tests run over are all there are."""

import pytest

from sft_lightning import modules
from sft_lightning.errors import UserError
from sft_lightning.tasks import TASKS
from tests.exactness.cases import CASES, PAIRS, REFUSED, make
from tests.support import VARIANTS, fit


def test_every_task_has_a_case() -> None:
    covered = {case.task for case in CASES.values()}
    assert covered == set(TASKS), (
        f"tasks without a case, or cases of no task: {covered ^ set(TASKS)}; add one to CASES in tests/exactness/cases.py"
    )


def test_every_variant_is_tried() -> None:
    exported = {v for v in vars(modules).values() if isinstance(v, type) and issubclass(v, modules.SFTModule)}
    missing = exported - {modules.SFTModule} - {cls for cls, _ in VARIANTS.values()}
    assert not missing, f"{[c.__name__ for c in missing]} are not in VARIANTS of tests/support.py: add them there"


def test_every_variant_meets_every_case() -> None:
    assert sorted(PAIRS + REFUSED) == sorted((case, variant) for case in CASES for variant in VARIANTS)


@pytest.mark.parametrize(("case", "variant"), REFUSED)
def test_what_cannot_work_is_refused_with_a_reason(root, case: str, variant: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=CASES[case].refused[variant]):
        fit(make(case, variant, root), CASES[case].data(), max_steps=1)
