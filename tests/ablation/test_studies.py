"""A study from its file to its answer: real points, in real worker processes."""

import csv
import gc
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml

from sft_lightning.cli.main import main
from tests.refused import check_printed

ROOT = Path(__file__).resolve().parents[2]
DIGITS = {"val_fraction": 0.25, "batch_size": 20}
BASE = {
    "model": {"class_path": "PlainSFT", "init_args": {"lr": 0.001}},
    "network": {
        "class_path": "MLP",
        "init_args": {"in_features": 64, "hidden": [128, 64], "pretrained": "builtin:digits-0-4"},
    },
    "data": {"class_path": "Digits", "init_args": {**DIGITS, "classes": [5, 6, 7, 8, 9], "shots_per_class": 4}},
    "retention": {"class_path": "Digits", "init_args": {**DIGITS, "classes": [0, 1, 2, 3, 4]}},
    "trainer": {"max_epochs": 6, "check_val_every_n_epoch": 3, "accelerator": "cpu"},
    "wandb": "disabled",
}
ARMS = {
    "plain": {"tune": {"model.lr": [0.001, 0.01]}},
    "distill": {"set": {"model.class_path": "DistillSFT"}, "tune": {"model.anchor_weight": [0.1, 1.0]}},
}


def write(path: Path, **content) -> Path:
    path.write_text(
        yaml.safe_dump({"study": path.stem, "base": BASE, "arms": ARMS, "seeds": 2, **content}, sort_keys=False)
    )
    return path


def ablate(file: Path, runs: Path, *more: str) -> int:
    return main(["ablate", "--config", str(file), "--runs_dir", str(runs), "--workers", "2", "--threads", "1", *more])


def points(folder: Path) -> list[dict[str, str]]:
    with (folder / "points.csv").open() as file:
        return list(csv.DictReader(file))


def attempts(folder: Path) -> dict[str, int]:
    return {f.stem: json.loads(f.read_text())["fit"]["attempts"] for f in (folder / "logs").glob("*.json")}


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(file, runs_dir, folder) of one that is finished."""
    place = tmp_path_factory.mktemp("study")
    file = write(place / "small.yaml")
    assert ablate(file, place / "runs") == 0
    return file, place / "runs", place / "runs" / "small"


class TestAFinishedStudy:
    def test_has_every_point_once_each_an_ordinary_run(self, study):
        table = points(study[2])
        assert len(table) == 8 and len({r["point"] for r in table}) == 8
        assert all(r["status"] == "finished" for r in table)
        for row in table:
            assert json.loads((study[2] / row["point"] / "run.json").read_text())["status"] == "finished"
            assert (study[2] / row["point"] / "config.yaml").is_file()

    def test_touched_test_with_the_chosen_points_alone(self, study):
        for row in points(study[2]):
            tested = "test" in json.loads((study[2] / row["point"] / "run.json").read_text())
            assert tested == (row["selected"] == "1"), f"{row['point']} of {row['arm']}"
            assert (row["test/accuracy"] != "") == tested
        assert sum(r["selected"] == "1" for r in points(study[2])) == 4

    def test_chose_by_the_means_on_validation_that_its_table_shows(self, study):
        cell = json.loads((study[2] / "study.json").read_text())["cells"][0]
        table = points(study[2])
        for arm, key in (("plain", "lr"), ("distill", "anchor_weight")):
            means = {}
            for row in table:
                if row["arm"] == arm:
                    means.setdefault(float(row[key]), []).append(
                        (float(row["val/accuracy"]), float(row["retention/accuracy"]))
                    )
            means = {k: [sum(v) / len(v) for v in zip(*values, strict=True)] for k, values in means.items()}
            best = max(v for v, _ in means.values())
            within = {k: kept for k, (v, kept) in means.items() if v >= best - 0.01 - 1e-9}
            assert cell["arms"][arm]["chosen"] == {key: max(within, key=lambda k: within[k])}

    def test_says_its_answer_with_statistics_over_the_tests(self, study):
        found = json.loads((study[2] / "study.json").read_text())
        assert found["status"] == "finished" and found["answer"]
        assert found["cells"][0]["statistics"]["summaries"]["target"]["plain"]["n"] == 2
        assert found["metrics"]["test_kept"] == "test/retention/accuracy"

    def test_left_a_page(self, study):
        assert "<html" in (study[2] / "report.html").read_text()[:2000].lower()

    def test_is_not_computed_again(self, study):
        before = attempts(study[2]), (study[2] / "points.csv").read_bytes()
        assert ablate(study[0], study[1]) == 0
        assert (attempts(study[2]), (study[2] / "points.csv").read_bytes()) == before

    def test_computes_only_what_is_new_when_its_file_grows(self, study, tmp_path):
        before = attempts(study[2])
        file = write(tmp_path / "small.yaml", seeds=3)
        assert ablate(file, study[1]) == 0
        after = attempts(study[2])
        assert all(after[p] == n for p, n in before.items()) and len(after) == 12
        assert len(points(study[2])) == 12
        assert ablate(study[0], study[1]) == 0  # and the smaller study is still there
        assert len(points(study[2])) == 8

    def test_does_not_care_where_records_go(self, study):
        assert ablate(study[0], study[1], "--wandb", "offline", "--dry-run") == 0

    def test_a_point_has_the_bits_of_the_same_run_alone(self, study, tmp_path):
        """Workers carry out one point after another, and share what a teacher said: nothing of it may show."""
        row = next(r for r in reversed(points(study[2])) if r["arm"] == "distill")
        config = study[2] / row["point"] / "config.yaml"
        assert (
            main(["fit", "--config", str(config), "--runs_dir", str(tmp_path), "--run_id", "alone", "--quiet", "true"])
            == 0
        )
        alone, shared = weights(next(tmp_path.glob("*/alone"))), weights(study[2] / row["point"])
        assert all(torch.equal(alone[k], shared[k]) for k in shared) and alone.keys() == shared.keys()


class TestADryRun:
    def test_says_how_many_points_and_touches_nothing(self, tmp_path, capsys):
        assert ablate(write(tmp_path / "dry.yaml"), tmp_path / "runs", "--dry-run") == 0
        said = capsys.readouterr().out
        assert "8 fits and 4 tests" in said and "not known before the first point" in said
        assert not (tmp_path / "runs").exists()

    def test_tells_the_cost_once_a_point_is_finished(self, study, tmp_path, capsys):
        file = write(tmp_path / "small.yaml", seeds=6)
        assert ablate(file, study[1], "--dry-run") == 0
        assert "cost: about" in capsys.readouterr().out


class TestHonesty:
    @pytest.mark.slow
    def test_the_choice_does_not_change_when_the_test_labels_are_shuffled(self, tmp_path):
        chosen, validation = [], []
        for shuffled in (False, True):
            given = {**BASE["data"]["init_args"], "shuffled": shuffled}
            data = {"class_path": "tests.ablation.shuffled.ShuffledTest", "init_args": given}
            file = write(tmp_path / f"shuffled-{shuffled}.yaml", base={**BASE, "data": data}, seeds=1)
            assert ablate(file, tmp_path) == 0
            folder = tmp_path / file.stem
            cell = json.loads((folder / "study.json").read_text())["cells"][0]
            chosen.append({a: v["chosen"] for a, v in cell["arms"].items()})
            validation.append([r["val/accuracy"] for r in points(folder)])
            test = [float(r["test/accuracy"]) for r in points(folder) if r["test/accuracy"]]
            assert (max(test) < 0.45) == shuffled, "the labels of the test split were not shuffled"
        assert chosen[0] == chosen[1] and validation[0] == validation[1]


class TestMoreWaysToChoose:
    def test_with_folds_the_chosen_setting_is_fitted_once_more_on_all_labels(self, tmp_path):
        file = write(tmp_path / "folds.yaml", folds=2, seeds=1, arms={"plain": ARMS["plain"]})
        assert ablate(file, tmp_path) == 0
        table = points(tmp_path / "folds")
        assert [(r["fold"], r["selected"]) for r in table] == [("0", "0"), ("1", "0")] * 2 + [("", "1")]
        sizes = {}
        for row in table:
            record = json.loads((tmp_path / "folds" / row["point"] / "run.json").read_text())
            sizes[row["fold"]] = record["data"]["description"]
        assert "10 train, 10 val" in sizes["0"] and "20 train" in sizes[""]

    def test_tuned_on_few_seeds_the_chosen_setting_is_run_on_all(self, tmp_path):
        file = write(tmp_path / "few.yaml", tune_seeds=1, arms={"plain": ARMS["plain"]})
        assert ablate(file, tmp_path) == 0
        assert sorted((r["seed"], r["selected"]) for r in points(tmp_path / "few")) == [
            ("0", "0"),
            ("0", "1"),
            ("1", "1"),
        ]

    def test_each_cell_of_the_axes_has_its_own_choice(self, tmp_path):
        axes = {"data.shots_per_class": [2, 4], "net": {"two": {}, "frozen": {"model.freeze": {"bottom_layers": 1}}}}
        file = write(tmp_path / "cells.yaml", axes=axes, seeds=1, arms={"plain": {}})
        assert ablate(file, tmp_path) == 0
        table = points(tmp_path / "cells")
        assert [(r["shots_per_class"], r["net"]) for r in table] == [(s, n) for s in "24" for n in ("two", "frozen")]
        assert len(json.loads((tmp_path / "cells" / "study.json").read_text())["cells"]) == 4

    @pytest.mark.slow
    @pytest.mark.parametrize("rule", ["keep", "best"])
    def test_a_search_proposes_settings_and_goes_on_from_its_journal(self, rule, tmp_path):
        search = {"trials": 3, "ranges": {"model.lr": {"low": 0.001, "high": 0.01, "log": True}}, "sampler": "random"}
        file = write(
            tmp_path / f"search-{rule}.yaml", seeds=1, arms={"plain": {"search": search}}, select={"rule": rule}
        )
        assert ablate(file, tmp_path) == 0
        folder = tmp_path / file.stem
        table = points(folder)
        assert len(table) == 3 and sum(r["selected"] == "1" for r in table) == 1
        assert all(0.001 <= float(r["lr"]) <= 0.01 for r in table)
        before = attempts(folder)
        assert ablate(file, tmp_path) == 0 and attempts(folder) == before

    @pytest.mark.slow
    def test_a_search_that_proposes_a_setting_twice_still_ends_with_a_choice(self, tmp_path):
        search = {"trials": 5, "ranges": {"model.lr": [0.001, 0.01]}, "sampler": "random"}
        arms = {"plain": {}, "tuned": {"search": search}}
        file = write(tmp_path / "twice.yaml", seeds=1, arms=arms)
        assert ablate(file, tmp_path) == 0
        found = json.loads((tmp_path / "twice" / "study.json").read_text())
        assert found["cells"][0]["arms"]["tuned"]["chosen"]["lr"] in (0.001, 0.01)
        assert len(points(tmp_path / "twice")) <= 3

    @pytest.mark.slow
    def test_a_search_survives_a_kill_amid_a_proposal_and_a_dry_run_proposes_nothing(self, tmp_path, capsys):
        import optuna

        search = {"trials": 2, "ranges": {"model.lr": [0.001, 0.01], "model.warmup": [0.0, 0.1]}, "sampler": "random"}
        file = write(tmp_path / "amid.yaml", seeds=1, arms={"plain": {"search": search}})
        assert ablate(file, tmp_path) == 0
        journal = tmp_path / "amid" / "search.journal"
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
        name = optuna.get_all_study_names(storage)[0]
        optuna.load_study(study_name=name, storage=storage).ask()  # and killed before it chose values
        size = journal.stat().st_size
        file = write(tmp_path / "amid.yaml", seeds=1, arms={"plain": {"search": {**search, "trials": 3}}})
        assert ablate(file, tmp_path, "--dry-run") == 0 and journal.stat().st_size == size
        assert "3 fits and 1 tests" in capsys.readouterr().out
        assert ablate(file, tmp_path) == 0

    @pytest.mark.slow
    def test_failed_trials_are_tried_again_when_asked(self, tmp_path):
        search = {"trials": 2, "ranges": {"model.lr": [1e30, 2e30]}, "sampler": "random"}
        file = write(tmp_path / "fails.yaml", seeds=1, arms={"plain": {"search": search}})
        assert ablate(file, tmp_path) == 2
        failed = len(points(tmp_path / "fails"))
        assert ablate(file, tmp_path, "--retry") == 2
        assert len(points(tmp_path / "fails")) == failed

    @pytest.mark.slow
    def test_what_was_tested_before_the_study_grew_is_named(self, tmp_path):
        lrs = {"plain": {"tune": {"model.lr": [1e-6, 1e-5]}}}
        select = {"rule": "best"}
        assert ablate(write(tmp_path / "grown.yaml", seeds=1, folds=2, arms=lrs, select=select), tmp_path) == 0
        more = {"plain": {"tune": {"model.lr": [1e-6, 1e-5, 0.01]}}}
        assert ablate(write(tmp_path / "grown.yaml", seeds=1, folds=2, arms=more, select=select), tmp_path) == 0
        arm = json.loads((tmp_path / "grown" / "study.json").read_text())["cells"][0]["arms"]["plain"]
        assert arm["chosen"] == {"lr": 0.01} and len(arm["tested_before"]) == 1 and "tested earlier" in arm["why"]

    @pytest.mark.slow
    def test_labels_that_yaml_writes_as_true_and_null_keep_their_answers(self, tmp_path, capsys):
        axes = {"data.shots_per_class": [2, None], "data.augment": [None, ["flip"]]}
        short = {"trainer.max_epochs": 1, "trainer.check_val_every_n_epoch": 1}
        assert ablate(write(tmp_path / "labels.yaml", seeds=1, axes=axes, arms=ARMS, set=short), tmp_path) == 0
        said = capsys.readouterr()
        assert "no point" not in said.err and said.out.count("one seed") == 4

    @pytest.mark.slow
    def test_a_budget_sets_the_number_of_seeds_before_anything_is_tested(self, tmp_path, capsys):
        file = write(tmp_path / "budget.yaml", arms={"plain": ARMS["plain"]})
        assert ablate(file, tmp_path, "--budget", "1s") == 0
        found = json.loads((tmp_path / "budget" / "study.json").read_text())
        assert found["seeds"] == [0, 1, 2] and found["budget"]["seeds"] == 3 and "3 seeds" in found["budget"]["why"][0]


class TestFailures:
    def test_points_that_fail_are_named_and_the_others_go_on_and_retry_tries_them_again(self, tmp_path, capsys):
        arms = {**ARMS, "broken": {"set": {"model.lr": 1e30}}}
        file = write(tmp_path / "broken.yaml", arms=arms, seeds=1)
        assert ablate(file, tmp_path) == 2
        said = capsys.readouterr().err
        assert "failed broken seed 0: " in said and "1 points failed; --retry" in said
        folder = tmp_path / "broken"
        found = json.loads((folder / "study.json").read_text())
        assert found["status"] == "failed" and [f["arm"] for f in found["failures"]] == ["broken"]
        statuses = {r["arm"]: r["status"] for r in points(folder)}
        assert statuses == {"plain": "finished", "distill": "finished", "broken": "failed"}
        bad = found["failures"][0]["point"]
        assert ablate(file, tmp_path) == 2 and attempts(folder)[bad] == 1, "a failed point was run again unasked"
        assert ablate(file, tmp_path, "--retry") == 2 and attempts(folder)[bad] == 1, "forgotten, then tried once"

    @pytest.mark.slow
    def test_a_point_whose_worker_is_killed_is_interrupted_and_tried_again(self, tmp_path, zygote):
        base = {**BASE, "trainer": {**BASE["trainer"], "max_epochs": 300}}
        file = write(tmp_path / "killed.yaml", base=base, seeds=1, arms={"plain": ARMS["plain"]})
        pid = zygote.spawn(command(file, tmp_path), tmp_path / "out")
        victim = wait_for_worker(tmp_path / "killed")
        os.kill(victim, signal.SIGKILL)
        said = tmp_path / "out"
        assert zygote.wait(pid) == 0, said.read_text()
        assert [r["status"] for r in points(tmp_path / "killed")] == ["finished"] * 2
        assert sorted(attempts(tmp_path / "killed").values()) == [1, 2], "the killed point was not tried once more"
        assert "interrupted: its process was killed by SIGKILL" in said.read_text() and "failed" not in said.read_text()

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ("test", "the test data"),  # of training data so does test_spend.py
            pytest.param("train", "the training or validation data", marks=pytest.mark.slow),
        ],
    )
    def test_data_that_changed_between_points_give_no_answer(self, changed, said, tmp_path):
        def file(split, word="fine"):
            rows = [f"{'good' if i % 2 else 'bad'} {i} {word if i % 2 else 'poor'},{i % 2}" for i in range(60)]
            (tmp_path / f"{split}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
            return str(tmp_path / f"{split}.csv")

        base = {
            "model": BASE["model"],
            "network": {"class_path": "LSTM", "init_args": {"embedding_dim": 8, "hidden": 8}},
            "data": {"class_path": "TextTable", "init_args": {"train": file("train"), "test": file("test")}},
            "trainer": {"max_epochs": 1},
            "wandb": "disabled",
        }
        arms = {"plain": {}, "slow": {"set": {"model.lr": 1e-4}}}
        assert ablate(write(tmp_path / "changed.yaml", base=base, arms={"plain": {}}), tmp_path) == 0
        file(changed, "great")
        assert ablate(write(tmp_path / "changed.yaml", base=base, arms=arms), tmp_path) == 0
        found = json.loads((tmp_path / "changed" / "study.json").read_text())
        assert found["answer"] == [f"No answer: {said} changed between points: give the study another name."]
        assert found["cells"][0]["statistics"] is None

    def test_a_secret_in_a_study_is_refused_before_anything_is_written(self, tmp_path, capsys):
        base = {**BASE, "wandb_tags": ["https://me:hunter2secret@example.org/x"]}
        assert ablate(write(tmp_path / "secret.yaml", base=base), tmp_path / "runs") == 2
        said = capsys.readouterr().err
        check_printed(said, "arms.plain")
        assert "hunter2secret" not in said and not (tmp_path / "runs").exists()

    @pytest.mark.parametrize(
        ("content", "key", "values"),
        [
            (
                {"axes": {"data.shots_per_class": [2, 4]}, "arms": {"plain": {"set": {"data.shots_per_class": 3}}}},
                "arms.plain (shots_per_class=4)",
                ["arms.plain (shots_per_class=2)"],
            ),
            ({"arms": {"plain": {}, "again": {}}}, "arms.again", ["arms.plain"]),
            (
                {"axes": {"steps": {"short": {}, "long": {"trainer.max_epochs": 9}}}},
                "--config",
                ["mixed.yaml: axes.steps: ", "points.csv"],
            ),
            ({"vary": ["seed_everything", "trainer"]}, "vary", ["arms.plain", "'trainer'"]),
        ],
    )
    def test_what_would_mix_runs_up_is_refused(self, content, key, values, tmp_path, capsys):
        assert ablate(write(tmp_path / "mixed.yaml", **content), tmp_path / "runs") == 2
        error = capsys.readouterr().err
        check_printed(error, key, *values)
        assert error.count("\n") == 1

    def test_a_set_for_all_arms_leaves_the_axes_as_they_are(self, tmp_path, capsys):
        file = write(tmp_path / "axes.yaml", axes={"data.shots_per_class": [2, 4]}, set={"data.shots_per_class": 3})
        assert ablate(file, tmp_path / "runs", "--dry-run") == 0
        assert "16 fits and 8 tests" in capsys.readouterr().out

    @pytest.mark.slow
    def test_a_study_waits_for_points_that_another_process_is_at(self, tmp_path, zygote):
        base = {**BASE, "trainer": {**BASE["trainer"], "max_epochs": 150}}
        file = write(
            tmp_path / "wait.yaml", base=base, seeds=1, arms={"plain": {}, "slow": {"set": {"model.lr": 1e-4}}}
        )
        assert ablate(file, tmp_path, "--dry-run") == 0
        pid = zygote.spawn(command(file, tmp_path), tmp_path / "out")
        run = holder_run(tmp_path / "wait")
        other = zygote.spawn(
            ["ablate", "--study_folder", str(tmp_path / "wait"), "--point", run.name], tmp_path / "out1"
        )
        zygote.wait(pid), zygote.wait(other)
        os.utime(run)  # both ended; now one that is at a point while the study starts again
        for file_ in ("run.json", "checkpoints/last.ckpt"):
            (run / file_).unlink(missing_ok=True)
        for note in (tmp_path / "wait" / "logs").glob(f"{run.name}.json"):
            note.unlink()
        other = zygote.spawn(
            ["ablate", "--study_folder", str(tmp_path / "wait"), "--point", run.name], tmp_path / "out2"
        )
        end = time.monotonic() + 60
        while not (run / "run.json").exists() and time.monotonic() < end:
            time.sleep(0.01)
        assert ablate(file, tmp_path) == 0
        assert zygote.wait(other) == 0
        assert {r["status"] for r in points(tmp_path / "wait")} == {"finished"}

    def test_an_arm_that_cannot_be_parsed_is_said_before_anything_runs(self, tmp_path, capsys):
        file = write(tmp_path / "bad.yaml", arms={"plain": {"tune": {"model.lrate": [1]}}})
        assert ablate(file, tmp_path / "runs") == 2
        said = capsys.readouterr().err
        check_printed(said, "arms.plain (model.init_args.lrate=1)", "'lrate'", "PlainSFT")
        assert said.count("\n") == 1
        assert not (tmp_path / "runs").exists()

    @pytest.mark.parametrize(
        ("arguments", "key", "values"),
        [
            ([], "ablate", ["--config", "--network", "--data"]),
            (["--config", "nowhere.yaml"], "--config", ["nowhere.yaml"]),
            (["--config", "x.yaml", "--network", "y"], "--network", []),
            (["--budget", "soon", "--network", "x", "--data", "y"], "--budget", ["'soon'"]),
            (["--workers", "0"], "--workers", ["1", "0"]),
            (["--seeds", "many"], "--seeds", ["'many'"]),
            (["--nonsense"], "--nonsense", ["ablate --help"]),
        ],
    )
    def test_bad_options_are_said_in_one_line(self, arguments, key, values, capsys):
        assert main(["ablate", *arguments]) == 2
        error = capsys.readouterr().err
        check_printed(error, key, *values)
        assert error.count("\n") == 1


def command(file: Path, runs: Path) -> list[str]:
    return ["ablate", "--config", str(file), "--runs_dir", str(runs), "--workers", "2", "--threads", "1"]


def holder(run: Path) -> int | None:
    """The process that works in a run directory, once it trains."""
    try:
        content = json.loads((run / ".lock").read_text())
        return int(content["pid"]) if (run / "metrics.jsonl").stat().st_size else None
    except (OSError, ValueError, KeyError):
        return None


def wait_for_worker(folder: Path) -> int:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        for run in folder.glob("*/metrics.jsonl"):
            record = json.loads((run.parent / "run.json").read_text())
            if (pid := holder(run.parent)) is not None and record["status"] == "running":
                return pid
        time.sleep(0.05)
    raise AssertionError(f"no point of {folder} began to train within 120 s")


def holder_run(folder: Path) -> Path:
    wait_for_worker(folder)
    return next(r.parent for r in folder.glob("*/run.json") if holder(r.parent))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class TestSurvival:
    def test_killed_and_started_again_it_ends_as_if_never_disturbed(self, study, tmp_path, zygote):
        """No point twice, no point lost, and the same bytes in points.csv."""
        file = write(tmp_path / "small.yaml")
        begun: dict[str, float] = {}
        for moment in (1, 4):  # points finished when it is killed
            pid = zygote.spawn(command(file, tmp_path), tmp_path / f"out{moment}")
            end = time.monotonic() + 120
            while len(finished(tmp_path / "small")) < moment and time.monotonic() < end:
                time.sleep(0.01)
            workers = [p for p in (holder(r) for r in (tmp_path / "small").glob("*") if r.is_dir()) if p]
            os.kill(pid, signal.SIGKILL)
            assert zygote.wait(pid) == -signal.SIGKILL
            end = time.monotonic() + 10
            while any(map(alive, workers)) and time.monotonic() < end:
                time.sleep(0.05)
            assert not any(map(alive, workers)), "workers outlive the study that was killed"
            for run in finished(tmp_path / "small"):
                begun.setdefault(run, started(tmp_path / "small" / run))
        pid = zygote.spawn(command(file, tmp_path), tmp_path / "out")
        assert zygote.wait(pid) == 0, (tmp_path / "out").read_text()
        assert (tmp_path / "small" / "points.csv").read_bytes() == (study[2] / "points.csv").read_bytes()
        assert {r: started(tmp_path / "small" / r) for r in begun} == begun, "a finished point was begun again"

    @pytest.mark.parametrize(
        ("signum", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
    )
    @pytest.mark.slow
    def test_asked_to_stop_it_saves_its_points_and_goes_on_later(self, signum, code, tmp_path, zygote):
        base = {**BASE, "trainer": {**BASE["trainer"], "max_epochs": 200}}
        file = write(tmp_path / "stop.yaml", base=base, seeds=1, arms={"plain": ARMS["plain"]})
        pid = zygote.spawn(command(file, tmp_path), tmp_path / "out")
        wait_for_worker(tmp_path / "stop")
        os.kill(pid, signum)
        assert zygote.wait(pid) == code, (tmp_path / "out").read_text()
        assert json.loads((tmp_path / "stop" / "study.json").read_text())["status"] == "interrupted"
        stopped = [r["point"] for r in points(tmp_path / "stop") if r["status"] == "interrupted"]
        assert stopped and any((tmp_path / "stop" / p / "checkpoints" / "last.ckpt").is_file() for p in stopped)
        assert zygote.wait(zygote.spawn(command(file, tmp_path), tmp_path / "out2")) == 0
        assert all(r["status"] == "finished" for r in points(tmp_path / "stop"))

    def test_two_at_once_in_one_folder_are_refused(self, study, capsys):
        from sft_lightning.runs.lock import RunLock

        lock = RunLock(study[2])
        pid = os.fork()
        if pid == 0:
            lock.take()
            time.sleep(60)
            os._exit(0)
        try:
            time.sleep(0.5)
            assert ablate(study[0], study[1]) == 2
            check_printed(capsys.readouterr().err, "study", f"process {pid}")
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def finished(folder: Path) -> list[str]:
    found = []
    for record in folder.glob("*/run.json"):
        try:
            content = json.loads(record.read_text())
        except ValueError:
            continue
        found += [record.parent.name] if content.get("status") == "finished" else []
    return found


def started(run: Path) -> str:
    return str(json.loads((run / "run.json").read_text())["times"]["started"])


def test_a_worker_holds_nothing_of_a_point_that_is_over(study, tmp_path):
    from sft_lightning.ablation.study_dir import StudyDir
    from sft_lightning.ablation.worker import run_job
    from sft_lightning.modules import SFTModule

    point = points(study[2])[0]["point"]
    folder = StudyDir(tmp_path / "again")
    folder.make()
    shutil.copy(study[2] / "plan" / f"{point}.yaml", folder.config(point))
    gc.collect()
    gc.disable()
    try:
        before = sum(isinstance(held, SFTModule) for held in gc.get_objects())
        note = run_job(folder, "fit", point, main)
        after = sum(isinstance(held, SFTModule) for held in gc.get_objects())
    finally:
        gc.enable()
    assert note["fit"]["exit"] == 0, folder.log(point).read_text()
    assert after == before, "the network of a finished point is held, and so would every point's be"
