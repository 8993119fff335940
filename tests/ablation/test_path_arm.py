"""Arms that train nothing: their points are chosen on the paths of another arm's runs, then tested and compared as others."""

import json
from functools import reduce
from pathlib import Path

import pytest
import yaml

from sft_lightning.ablation.collect import rows
from sft_lightning.ablation.disk_usage import spare
from sft_lightning.ablation.plan import Plan
from sft_lightning.ablation.scheduler import Scheduler
from sft_lightning.ablation.study import make_study
from sft_lightning.ablation.study_dir import StudyDir
from sft_lightning.cli.main import main
from sft_lightning.config.overrides import merged
from tests.ablation.test_dry_run import BASE, RATES, ends
from tests.refused import refused

ARMS = {"plain": RATES, "wise": {"path": {"of": "plain"}}, "lines": {"path": {"of": "plain", "how": "lines"}}}


def make(folder: Path, **content: object) -> Scheduler:
    """The state of a study in its own folder, without a run."""
    study = make_study({"base": BASE, "arms": ARMS, "seeds": 2, **content}, folder, "mine")
    plan = Plan(study, lambda layers: reduce(merged, layers, {}))
    found = Scheduler(study, plan, StudyDir(folder / "runs/mine"))
    found.folder.make()
    return found


def fits(scheduler: Scheduler) -> list[str]:
    """Arms of the points that can be fitted now."""
    return [scheduler.points[point].arm for job, point in scheduler.jobs() if job == "fit"]


def with_weights(scheduler: Scheduler, point: str) -> None:
    scheduler.folder.run(point).last.parent.mkdir(exist_ok=True)
    scheduler.folder.run(point).last.touch()


def test_they_wait_for_the_chosen_runs_and_follow_each_of_them(tmp_path: Path) -> None:
    study = make(tmp_path)
    assert fits(study) == ["plain"] * 6, "a path is due before there is a run"
    for point in study.all_points():
        ends(study, point, fit=10)
        with_weights(study, point.id)
    assert fits(study) == ["wise", "lines", "wise", "lines"]
    chosen = {p.seed: p.id for p in study.choice({}, study.study.arm("plain")).points}
    wise = study.choice({}, study.study.arm("wise")).points
    assert {p.seed: p.along[0] for p in wise} == chosen
    assert len({p.id for p in study.all_points()}) == 6 + 2 + 2
    assert not {p.id for p in wise} & set(spare(study)) and not set(chosen.values()) & set(spare(study))

    study.folder.plan(wise[0])
    run, *options = json.loads(study.folder.path_plan(wise[0].id).read_text())
    assert run.endswith(chosen[wise[0].seed]) and options[:2] == ["--how", "wise-ft"]
    assert options[-2:] == ["--margin", "0.01"], "the margin is not that of the study's rule"


def test_weights_that_were_removed_are_fitted_again_first(tmp_path: Path) -> None:
    study = make(tmp_path)
    for point in study.all_points():
        ends(study, point, fit=10)
    assert set(fits(study)) == {"plain"}
    first = study.choice({}, study.study.arm("plain")).points[0].id
    study.under_way.add(("fit", first))
    with_weights(study, first)
    wise = study.choice({}, study.study.arm("wise")).points[0]
    assert study.to_fit(wise) == [], "the path of a run that is fitted at this moment is due"
    study.under_way.clear()
    assert study.to_fit(wise) == [wise]


def test_a_failed_run_has_no_path_and_the_table_says_the_chosen_points(tmp_path: Path) -> None:
    study = make(tmp_path, arms={"plain": {}, "wise": ARMS["wise"]})
    one, other = study.choice({}, study.study.arm("plain")).points
    ends(study, one, fit=10)
    ends(study, other, fit=10, code=1)
    (wise,) = study.choice({}, study.study.arm("wise")).points
    ends(study, wise, fit=1)
    record = json.loads(study.folder.run(wise.id).record.read_text()) | {"after": {"alpha": 0.7}}
    study.folder.run(wise.id).record.write_text(json.dumps(record))
    study.standing.clear()
    columns, table = rows(study)
    assert "path_alpha" in columns and [row.get("path_alpha") for row in table] == [None, None, 0.7]
    choice = study.choice({}, study.study.arm("wise"))
    assert choice.why.endswith("alpha by seed: 0.7") and "0.01" in choice.why
    assert "path_alpha" not in rows(make(tmp_path / "other", arms={"plain": {}}))[0], "other tables have a new column"


@pytest.mark.parametrize(
    ("arm", "key", "values"),
    [
        ({"path": {"of": "plan"}}, "arms.wise.path.of", ["'plan'", "'plain'"]),
        ({"path": {"of": "wise"}}, "arms.wise.path.of", ["wise", "plain"]),
        ({"path": {"how": "lines"}}, "arms.wise.path", ["of"]),
        ({"path": "plain"}, "arms.wise.path", ["'plain'"]),
        ({"path": {"of": "plain", "how": "wise"}}, "arms.wise.path.how", ["'wise'", "wise-ft"]),
        ({"path": {"of": "plain", "margins": 1}}, "arms.wise.path.margins", ["'margin'"]),
        ({"path": {"of": "plain", "margin": -1}}, "arms.wise.path.margin", ["-1"]),
        ({"path": {"of": "plain", "alphas": [0, 2]}}, "arms.wise.path.alphas", ["2"]),
        ({"path": {"of": "plain", "alphas": [True]}}, "arms.wise.path.alphas", ["True"]),
        ({"path": {"of": "plain", "batchnorm": "no"}}, "arms.wise.path.batchnorm", ["'no'"]),
        ({"path": {"of": "plain"}, "tune": {"model.lr": [1]}}, "arms.wise.tune", ["path"]),
        ({"path": {"of": "plain"}, "set": {}}, "arms.wise.set", ["path"]),
    ],
)
def test_what_is_wrong_is_said_with_its_key(arm: dict[str, object], key: str, values: list[str]) -> None:
    refused(lambda: make_study({"base": BASE, "arms": {"plain": {}, "wise": arm}}, Path(), "mine"), key, *values)


def test_the_baseline_must_train() -> None:
    refused(lambda: make_study({"base": BASE, "arms": ARMS, "baseline": "wise"}, Path(), "mine"), "baseline", "wise")


@pytest.mark.slow
def test_in_a_real_study_they_are_tested_and_compared(tmp_path: Path) -> None:
    from tests.ablation.test_studies import BASE as REAL
    from tests.ablation.test_studies import points

    arms = {**ARMS, "plain": {"tune": {"model.lr": [0.003, 0.01]}}, "deep": {"path": {"of": "plain", "margin": 0.2}}}
    file = tmp_path / "paths.yaml"
    file.write_text(yaml.safe_dump({"base": REAL, "arms": arms, "seeds": 3}, sort_keys=False))
    where = ["--config", str(file), "--runs_dir", str(tmp_path / "runs"), "--workers", "1", "--threads", "1"]
    assert main(["ablate", *where, "--quiet", "--keep_weights", "chosen"]) == 0
    folder = tmp_path / "runs" / "paths"
    table = points(folder)
    made = [row for row in table if row["arm"] != "plain"]
    assert len(made) == 9 and all(row["selected"] == "1" and float(row["test/accuracy"]) > 0 for row in made)
    held = json.loads((folder / "study.json").read_text())
    assert set(held["cells"][0]["statistics"]["summaries"]["target"]) == {"plain", "wise", "lines", "deep"}
    chosen = {r["seed"]: r for r in table if r["arm"] == "plain" and r["selected"] == "1"}
    for row in made:
        record = json.loads((folder / row["point"] / "run.json").read_text())
        assert record["after"]["of"].endswith(chosen[row["seed"]]["point"])
        assert record["after"]["alpha"] == float(row["path_alpha"])
        best = max(p["metrics"]["val/accuracy"] for p in record["after"]["points"])
        margin = 0.2 if row["arm"] == "deep" else 0.01
        assert float(row["val/accuracy"]) >= best - margin - 1e-9
        assert float(row["retention/accuracy"]) >= float(chosen[row["seed"]]["retention/accuracy"])
    before = {row["point"]: (folder / row["point"] / "run.json").read_bytes() for row in made}
    assert main(["ablate", *where, "--quiet"]) == 0
    assert before == {p: (folder / p / "run.json").read_bytes() for p in before}, "finished points were made again"
