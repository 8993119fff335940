"""The recipes of a default study: how long a run is, and which learning rates its arms choose among."""

import pytest

from sft_lightning.autoconfig.recipe import RECIPES, arms, length
from sft_lightning.autoconfig.without_effect import check_effect
from tests.refused import refused


@pytest.mark.parametrize("family", RECIPES)
@pytest.mark.parametrize("samples", [10, 40, 100, 333, 1000, 5000, 20_000, 300_000])
def test_a_run_is_neither_short_nor_endless_and_validates_about_ten_times(family: str, samples: int) -> None:
    recipe = RECIPES[family]
    run = length(recipe, samples, gpu=False)
    assert run.steps <= recipe.most_steps
    assert run.steps >= min(recipe.steps, -(-samples // run.batch_size) * recipe.epochs[1]) * 0.6
    assert run.validations <= 14
    if run.steps >= 100:
        assert run.validations >= 5


def test_all_arms_that_move_the_network_choose_among_the_same_learning_rates() -> None:
    for recipe in RECIPES.values():
        made = arms(recipe, 5, None)
        assert {tuple(made[a]["tune"]["model.lr"]) for a in ("plain", "l2sp", "distill")} == {recipe.lr}


@pytest.mark.parametrize("key", ["model.lr", "model.init_args.lr", "model.class_path"])
def test_what_each_arm_decides_cannot_be_set(key: str) -> None:
    made = arms(RECIPES["transformer"], source_outputs=3, last_block=1)
    fine = {"trainer.max_steps": 5, "model.weight_decay": 0.1, "model.anchor_weight": 1, "model": {"init_args": {}}}
    check_effect(fine, made)
    with refused(key, "no effect", "study file"):
        check_effect({**fine, key: 0.1}, made)
