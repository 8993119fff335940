"""Files for `wandb sweep`, what an agent starts from them, and what W&B's records of a study's points hold."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from sft_lightning.ablation.plan import Plan, Point
from sft_lightning.ablation.study import make_study
from sft_lightning.ablation.study_dir import StudyDir
from sft_lightning.ablation.worker import run_job
from sft_lightning.cli.main import main
from sft_lightning.config.resolve import resolve, resolve_arguments
from sft_lightning.evaluation.known_metrics import direction
from tests.cli.conftest import ROOT, Command, command  # noqa: F401  a fixture
from tests.refused import refused
from tests.runs.wandb_server import WandbServer, handler

FILES = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "experiments/sweeps").glob("*.yaml"))
SWEEP, AGENTS = "sweep123", "agent456"  # a sweep's id, and the id that its agent gives a run


def content(file: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / file).read_text())
    return found


def examples(parameter: dict[str, Any]) -> list[Any]:
    """Values that a sweep may choose: all of a list, the ends of a range."""
    return parameter["values"] if "values" in parameter else [parameter["min"], parameter["max"]]


def command_line(file: str, values: dict[str, Any]) -> list[str]:
    """What an agent runs, by W&B's own way to fill a sweep's command; the interpreter and what is before it left out."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    filled = create_sweep_command_args({"args": {name: {"value": value} for name, value in values.items()}})
    made: list[str] = []
    for word in create_sweep_command(list(content(file)["command"])):
        made += filled[word[2:-1]] if word == "${args}" else [str(word)]
    assert made[:4] == ["${env}", "${interpreter}", "-m", "sft_lightning"], f"it does not start this package: {made}"
    return made[4:]


@pytest.fixture(autouse=True)
def fresh_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A W&B that reads its environment anew, without credentials."""
    import wandb

    wandb.teardown()
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for variable in [v for v in os.environ if v.startswith("WANDB_")]:
        monkeypatch.delenv(variable)
    yield
    wandb.teardown()


# ---- the files ----


@pytest.mark.parametrize("file", FILES)
def test_wandbs_own_sweep_engine_finds_no_fault_in_the_file_and_proposes_runs_of_it(file: str) -> None:
    sweeps = pytest.importorskip("sweeps", reason="W&B's sweep engine, of the extra wandb[sweeps], is not installed")
    sweep = content(file)
    assert sweeps.schema_violations_from_proposed_config(sweep) == []
    proposed = sweeps.next_run(sweep, [])
    assert set(proposed.config) == set(sweep["parameters"])


def test_wandbs_hyperband_ends_a_run_that_does_not_learn_at_its_fourth_validation_in_training() -> None:
    sweeps = pytest.importorskip("sweeps", reason="W&B's sweep engine, of the extra wandb[sweeps], is not installed")
    sweep = content("experiments/sweeps/trec-distill.yaml")
    metric = sweep["metric"]["name"]

    def run(name: str, state: str, history: list[float]) -> Any:
        made = sweeps.SweepRun(name=name, config={}, state=sweeps.RunState(state))
        made.history = [{metric: value} for value in history]
        return made

    others = [run(f"learns {i}", "finished", [0.1 + 0.06 * step for step in range(13)]) for i in range(4)]
    for rows, stopped in ((4, []), (5, ["does not"])):  # one row is from before training
        told = sweeps.stop_runs(sweep, [*others, run("does not", "running", [0.1] * rows)])
        assert [r.name for r in told] == stopped, f"after {rows} rows"


@pytest.mark.parametrize("file", FILES)
def test_a_grid_lists_its_values_and_every_range_has_two_ends(file: str) -> None:
    sweep = content(file)
    assert sweep["method"] in ("grid", "random", "bayes")
    for name, parameter in sweep["parameters"].items():
        if "values" in parameter:
            assert set(parameter) == {"values"}, f"{name} has a list and something else"
        else:
            assert sweep["method"] != "grid", f"{name}: a grid cannot go through a range"
            assert set(parameter) == {"distribution", "min", "max"}, f"{name} is no range"
            assert 0 < parameter["min"] < parameter["max"], (
                f"{name} has no logarithm, or its ends are the wrong way round"
            )


@pytest.mark.parametrize("file", FILES)
def test_every_parameter_is_a_key_that_fit_has_and_every_value_one_that_it_takes(file: str) -> None:
    sweep = content(file)
    for name, parameter in sweep["parameters"].items():
        for value in examples(parameter):
            (config,) = [i + 1 for i, a in enumerate(command_line(file, {})) if a == "--config"]
            base = yaml.safe_load((ROOT / command_line(file, {})[config]).read_text())
            before, after = resolve([base]), resolve([base, {name: value}])
            assert value_at(after, name) == pytest.approx(value), f"{name} is not what the sweep says"
            assert without(after, name) == without(before, name), f"{name} changes something else"
    with refused("model", "'anchr'"):
        resolve([base, {"model.init_args.anchr": 1.0}])


@pytest.mark.parametrize("written", [None, "None", "null", "~"])
def test_none_of_a_sweep_is_null(written: Any) -> None:
    """W&B's agent fills Python's None into the command line as `None`."""
    file, keys = FILES[0], ("model.init_args.ema_decay", "network.init_args.pretrained", "wandb_group")
    line = command_line(file, dict.fromkeys(keys, written))
    assert f"--{keys[0]}={written}" in line
    config = resolve_arguments([*line[1:], "--model=PlainSFT"])
    assert [value_at(config, key) for key in keys] == [None] * 3
    with refused("model.init_args.lr", "number", "null"):
        resolve_arguments([*line[1:], f"--model.init_args.lr={written}"])


def value_at(config: dict[str, Any], name: str) -> Any:
    for part in name.split("."):
        config = config[part]
    return config


def without(config: dict[str, Any], name: str) -> dict[str, Any]:
    copied: dict[str, Any] = json.loads(json.dumps(config))
    *path, last = name.split(".")
    inner = copied
    for part in path:
        inner = inner[part]
    inner.pop(last)
    return copied


@pytest.mark.parametrize("file", FILES)
def test_a_sweep_chooses_by_a_logged_validation_metric_and_never_sees_test(file: str) -> None:
    sweep, line = content(file), command_line(file, {})
    assert sweep["metric"]["name"].startswith(("val/", "retention/")), "the test split would choose"
    wanted = {"max": "maximize", "min": "minimize"}[direction(sweep["metric"]["name"])]
    assert sweep["metric"]["goal"] == wanted, "it looks for the worst"
    assert "--test_after_fit=false" in line
    assert "--wandb=online" in line, "the agent's runs would not reach the sweep"


@pytest.mark.parametrize("file", FILES)
def test_has_a_header_with_command_cost_and_result(file: str) -> None:
    text = (ROOT / file).read_text()
    for word in ("# Command:", "# Cost:", "# Result:", file):
        assert word in text, f"the header lacks '{word}'"


# ---- a run under an agent ----


def as_agent(monkeypatch: pytest.MonkeyPatch, folder: Path, values: dict[str, Any]) -> None:
    """What `wandb agent` sets before it starts a run; see _command_run in wandb/wandb_agent.py."""
    from wandb.sdk.lib import config_util

    file = folder / f"sweep-{SWEEP}" / f"config-{AGENTS}.yaml"
    config_util.save_config_file_from_dict(str(file), {name: {"value": value} for name, value in values.items()})
    for name, value in (
        ("WANDB_SWEEP_ID", SWEEP),
        ("WANDB_RUN_ID", AGENTS),
        ("WANDB_SWEEP_PARAM_PATH", str(file)),
        ("WANDB_PROJECT", "of-the-sweep"),
        ("WANDB_DIR", str(folder)),
    ):
        monkeypatch.setenv(name, value)


def inspected(folder: Path) -> dict[str, Any]:
    """What W&B's own tool reads in an offline run's folder: run, config, summary."""
    tool = Path(sys.executable).with_name("wandb")
    shown = subprocess.run(
        [tool, "leet", "inspect", "--summary", "--json", str(folder)], capture_output=True, text=True, timeout=120
    )
    assert shown.returncode == 0, shown.stderr
    told: dict[str, Any] = json.loads(shown.stdout)
    return told


def run_record(folder: Path) -> dict[str, Any]:
    """The run record of an offline run's file: its id, project, group, job type and sweep."""
    tool = Path(sys.executable).with_name("wandb")
    shown = subprocess.run(
        [tool, "leet", "inspect", "--json", str(folder)], capture_output=True, text=True, timeout=120
    )
    assert shown.returncode == 0, shown.stderr
    records = [json.loads(line) for line in shown.stdout.splitlines()]
    return dict(next(r["run"] for r in records if r["type"] == "run"))


@pytest.mark.slow
def test_the_command_of_an_agent_runs_and_the_run_is_the_one_that_the_sweep_knows(
    command: Command,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    values = {"model.init_args.anchor_weight": 0.3, "data.init_args.subset_seed": 2}
    as_agent(monkeypatch, tmp_path / "agent", values)
    line = command_line("experiments/sweeps/digits-distill.yaml", values)
    line = [a.replace("--wandb=online", "--wandb=offline") for a in line]
    done = command(*line, "--trainer.max_epochs", 10)
    assert done.code == 0, done.err
    assert done.run.files.run_id == AGENTS, "the directory is not named as the sweep knows the run"
    assert done.run.record["run_id"] == AGENTS
    assert "Ignoring" not in done.err, f"W&B passes over what it was given: {done.err}"
    folder = next((done.run.path / "wandb").glob(f"offline-run-*-{AGENTS}"))
    told, record = inspected(folder), run_record(folder)
    assert record["run_id"] == AGENTS
    assert record["sweep_id"] == SWEEP, "the run is not linked to its sweep"
    assert record["project"] == "of-the-sweep", "the run goes to another project than its sweep's"
    for name, value in values.items():
        assert told["config"][name] == value, "the sweep's own parameters are lost"
        assert value_at(told["config"], name) == value, "the nested config says something else"
        assert value_at(done.run.config, name) == value
    assert told["summary"]["val/accuracy"] == pytest.approx(done.run.metrics["val/accuracy"])
    again = command(*line, "--trainer.max_epochs", 20)
    assert again.code == 0, again.err
    assert again.run.record["resumed"] == 1, "a run that the sweep gives out again does not go on"
    assert again.run.files.run_id == AGENTS


def test_a_run_id_that_is_given_wins_over_the_agents(
    command: Command,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    as_agent(monkeypatch, tmp_path / "agent", {})
    fit = ("fit", "--config", "experiments/digits/distill.yaml", "--trainer.max_epochs", 1, "--wandb", "disabled")
    assert command(*fit, "--run_id", "mine").run.files.run_id == "mine"
    monkeypatch.delenv("WANDB_SWEEP_ID")  # an id alone is no sweep's: ours goes to W&B then, as ever
    assert command(*fit).run.files.run_id != AGENTS


# ---- what W&B is told of a study's points ----

STUDY = {
    "study": "small",
    "base": {
        **yaml.safe_load((ROOT / "experiments/digits/plain.yaml").read_text()),
        "trainer": {"max_epochs": 6, "check_val_every_n_epoch": 3, "accelerator": "cpu"},
    },
    "arms": {
        "plain": {},
        "anchored": {"set": {"model.class_path": "DistillSFT"}, "tune": {"model.anchor_weight": [0.1, 1.0]}},
    },
    "axes": {"data.shots_per_class": [4]},
    "seeds": [3],
}


@pytest.mark.slow
def test_wandb_has_group_arm_settings_and_all_final_metrics_of_a_studys_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    study = make_study(STUDY, ROOT, "small")
    folder = StudyDir(tmp_path / "runs" / "small")
    folder.make()
    arm = next(a for a in study.arms if a.name == "anchored")
    point: Point = next(Plan(study, resolve).tuning(arm, study.cells[0], [3]))
    folder.plan(point)
    for job in ("fit", "test"):
        note = run_job(folder, job, point.id, main)[job]
        assert note["exit"] == 0, note["reason"]
    path = folder.run(point.id).path
    fitted, tested = sorted((path / "wandb").glob("offline-run-*"), key=lambda f: f.stat().st_mtime_ns)
    record = json.loads((path / "run.json").read_text())
    for part in (fitted, tested):
        about, told = run_record(part), inspected(part)
        assert about["run_group"] == "small", "the group is not the study"
        assert about["job_type"] == "anchored", "the job type is not the arm"
        assert about["run_id"] == point.id, "fit and test are not one run"
        config, summary = told["config"], told["summary"]
        assert config["model"]["init_args"]["anchor_weight"] == 0.1
        assert config["data"]["init_args"]["shots_per_class"] == 4
        assert config["seed_everything"] == config["data"]["init_args"]["subset_seed"] == 3
        for name, entry in record["metrics"].items():
            if name.startswith("test/"):
                continue
            assert summary[name] == pytest.approx(entry["final"]), f"{name} of {part.name} is not the last"
            if "selected" in entry:
                assert summary[f"selected/{name}"] == pytest.approx(entry["selected"]), (
                    f"{name} at best.ckpt is missing"
                )
    assert "test/accuracy" not in inspected(fitted)["summary"], "a point that is not chosen would have been tested"
    for name, value in record["test"].items():
        name = name if name.startswith("test/") else f"test/{name}"
        assert inspected(tested)["summary"][name] == pytest.approx(value), f"{name} did not reach the summary"
    assert re.fullmatch("[0-9a-f]{12}", point.id)


# ---- the real `wandb sweep` and `wandb agent`, with a stand-in for the server ----


class SweepServer(WandbServer):
    """A stand-in for the W&B server that keeps one sweep and gives out one run of it. It searches nothing.

    `sweep` is the configuration that arrived, `answers` the values of the run that is given out.
    """

    def __init__(self, answers: dict[str, Any]) -> None:
        super().__init__()
        self.answers, self.given_out = answers, False
        self.sweep: dict[str, Any] = {}

    def answer(self, query: dict[str, Any]) -> dict[str, Any]:
        named = re.search(r"(?:query|mutation)\s+(\w+)", query["query"])  # W&B leaves operationName empty for some
        name, given = named[1] if named else "", query.get("variables") or {}
        self.operations.append(name)
        project = {"id": "p", "name": given.get("projectName"), "entity": {"id": "e", "name": "somebody"}}
        if name == "GetDefaultEntity":
            return {"viewer": {"id": "v", "entity": "somebody"}}
        if name == "UpsertSweep":
            self.sweep = yaml.safe_load(given["config"])
            return {"upsertSweep": {"sweep": {"name": SWEEP, "project": project}, "configValidationWarnings": []}}
        if name == "SweepWithRuns":
            return {"project": {"sweep": {"name": SWEEP, "config": json.dumps(self.sweep), "runs": {"edges": []}}}}
        if name == "CreateAgent":
            return {"createAgent": {"agent": {"id": "a"}}}
        if name == "Heartbeat":
            args = {n: {"value": v} for n, v in self.answers.items()}
            first = [{"type": "run", "run_id": AGENTS, "program": None, "args": args}]
            commands, self.given_out = [] if self.given_out else first, True
            return {"agentHeartbeat": {"agent": {"id": "a"}, "commands": json.dumps(commands)}}
        return super().answer({**query, "operationName": name})


@pytest.mark.slow
def test_wandb_sweep_and_agent_take_the_file_and_the_run_reaches_the_server_as_the_sweeps(tmp_path: Path) -> None:
    values = {"model.init_args.anchor_weight": 0.1, "data.init_args.subset_seed": 3}
    server = SweepServer(values)
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler(server))
    server.url = f"http://127.0.0.1:{http.server_port}"
    threading.Thread(target=http.serve_forever, daemon=True).start()
    beside = Path(sys.executable).parent  # the agent starts `python`, whichever is first on the PATH
    env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")} | {
        "PATH": f"{beside}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path / "home"),
        "SFT_RUNS_DIR": str(tmp_path / "runs"),
        "WANDB_BASE_URL": server.url,
        "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",  # of the right length, and nobody's
        "WANDB_DIR": str(tmp_path),
    }

    def wandb(*arguments: str) -> str:
        done = subprocess.run(
            [beside / "wandb", *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=400
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        return said

    try:
        said = wandb(
            "sweep", "--entity", "somebody", "--project", "of-the-sweep", "experiments/sweeps/digits-distill.yaml"
        )
        assert f"somebody/of-the-sweep/{SWEEP}" in said, said
        assert server.sweep["parameters"] == content("experiments/sweeps/digits-distill.yaml")["parameters"]
        said = wandb("agent", "--count", "1", f"somebody/of-the-sweep/{SWEEP}")
    finally:
        http.shutdown()
        http.server_close()
    path = tmp_path / "runs" / "digits-distill" / AGENTS
    assert (path / "run.json").is_file(), f"the agent's run is not in a directory of its name:\n{said}"
    record = json.loads((path / "run.json").read_text())
    assert record["status"] == "finished", record.get("reason")
    assert "test" not in record, "the sweep saw the test split"
    assert list(server.runs) == [AGENTS], "W&B's run is not the one that the sweep gave out"
    assert server.runs[AGENTS]["sweep"] == SWEEP, "the run is not linked to its sweep"
    assert server.runs[AGENTS]["project"] == "of-the-sweep"
    logged = [row["val/accuracy"] for row in server.rows(AGENTS) if "val/accuracy" in row]
    assert logged[-1] == pytest.approx(record["metrics"]["val/accuracy"]["final"]), "the sweep cannot see its metric"
