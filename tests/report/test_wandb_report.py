"""`compare`'s W&B report against a stand-in server, which keeps what arrives; it draws nothing, so no panel is seen."""

import csv
import json
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sft_lightning.report import wandb_report
from sft_lightning.report.wandb_report import parse_target, write_report
from tests.refused import refused
from tests.report.written import ARMS, write_run
from tests.runs.wandb_server import WandbServer, handler

pytest.importorskip("wandb_workspaces", reason="the extra [wandb-report] is not installed")
KEY = "0123456789abcdef0123456789abcdef01234567"  # of the right length, and nobody's


class ReportServer(WandbServer):
    """A stand-in for the W&B server that knows what the workspaces library asks. Its answers are made up.

    `views` has the variables of each upsertView, with the spec parsed; `projects` those that exist.
    """

    def __init__(self) -> None:
        super().__init__()
        self.views: list[dict[str, Any]] = []
        self.projects: list[str] = ["study-project"]

    def answer(self, query: dict[str, Any]) -> dict[str, Any]:
        named = re.search(r"(?:query|mutation)\s+(\w+)", query["query"])  # the library leaves operationName empty
        name, given = named[1] if named else "", query.get("variables") or {}
        project = {"id": "p", "name": given.get("projectName"), "entityName": given.get("entityName")}
        if name == "GetDefaultEntity":
            self.operations.append(name)
            return {"viewer": {"id": "v", "entity": "somebody"}}
        if name == "ProjectInternalId":
            self.operations.append(name)
            there = given["projectName"] in self.projects
            return {"project": {"id": "p", "internalId": "internal"} if there else None}
        if name == "GetProjects":
            self.operations.append(name)
            about = {"__typename": "Project", "createdAt": "2026-01-01T00:00:00Z", "isBenchmark": False, "user": None}
            edges = [{"node": {**project, **about, "name": n, "entityName": given["entity"]}} for n in self.projects]
            page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
            return {"models": {"pageInfo": page, "edges": edges}}
        if name == "upsertView":
            self.operations.append(name)
            self.views.append({**given, "spec": json.loads(given["spec"])})
            made = {n: given[n] for n in ("name", "displayName", "description", "type", "spec")}
            view = {"id": "Vmlldzox", **made, "project": project, "updatedAt": "2026-01-01T00:00:00"}
            return {"upsertView": {"view": view, "inserted": True}}
        return super().answer({**query, "operationName": name})


@pytest.fixture
def server() -> Iterator[ReportServer]:
    kept = ReportServer()
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler(kept))
    kept.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield kept
    http.shutdown()
    http.server_close()


@pytest.fixture(autouse=True)
def nobody_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home without credentials."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NETRC", raising=False)
    for variable in [v for v in os.environ if v.startswith("WANDB_")]:
        monkeypatch.delenv(variable)


@pytest.fixture
def logged_in(server: ReportServer, monkeypatch: pytest.MonkeyPatch) -> ReportServer:
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    return server


def grids(view: dict[str, Any]) -> list[dict[str, Any]]:
    """The panel grids of a report, as {run set, panels by kind}."""
    found = []
    for block in view["spec"]["blocks"]:
        if block["type"] == "panel-grid":
            (runset,) = block["metadata"]["runSets"]
            panels = block["metadata"]["panelBankSectionConfig"]["panels"]
            kinds: dict[str, list[dict[str, Any]]] = {}
            for panel in panels:
                kinds.setdefault(panel["viewType"], []).append(panel["config"])
            found.append({"runset": runset, "colours": block["metadata"]["customRunColors"], **kinds})
    return found


def filters(grid: dict[str, Any]) -> dict[str, Any]:
    """What a grid's runs are chosen by, by W&B's name of it."""
    return {f["key"]["name"]: f["value"] for f in grid["runset"]["filters"]["filters"]}


def text_of(view: dict[str, Any]) -> str:
    return "\n".join(
        b.get("content", "") + "".join(str(c.get("text", "")) for c in b.get("children", []))
        for b in view["spec"]["blocks"]
    )


def selected(study: Path, shots: int) -> set[str]:
    with (study / "points.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {r["point"] for r in rows if r["shots_per_class"] == str(shots) and r["selected"] == "1"}


def test_a_study_becomes_one_report_with_its_answer_in_words_and_its_table(
    study: Path, logged_in: ReportServer
) -> None:
    url = write_report([study], "somebody", "study-project", "Which keeps?")
    (view,) = logged_in.views
    assert url.startswith(f"{logged_in.url}/somebody/study-project/reports/Which-keeps?--")
    assert (view["entityName"], view["projectName"], view["type"]) == ("somebody", "study-project", "runs")
    assert view["displayName"] == "Which keeps?"
    said = text_of(view)
    for answer in json.loads((study / "study.json").read_text())["answer"]:
        assert answer in said, "the study's answer is not in the report"
    table = next(b["content"] for b in view["spec"]["blocks"] if b["type"] == "markdown-block")
    assert "test/retention/accuracy" in table
    for arm in ARMS:
        assert f"| {arm} |" in table, f"the table has no row for {arm}"
    assert "wandb sync" in said, "the report does not say why its panels may be empty"


def test_each_cell_has_curves_and_bars_by_arm_over_its_chosen_runs_alone(study: Path, logged_in: ReportServer) -> None:
    write_report([study], "somebody", "study-project")
    by_cell = [g for g in grids(logged_in.views[0]) if "Run History Line Plot" in g]
    assert len(by_cell) == 2
    for grid, shots in zip(by_cell, (5, 20), strict=True):
        chosen = filters(grid)
        assert chosen["group"] == "digits", "the runs are not the study's"
        assert set(chosen["name"]) == selected(study, shots), "other runs than the chosen ones are in the means"
        assert [k["name"] for k in grid["runset"]["grouping"]] == ["jobType"], "the runs are not grouped by arm"
        lines = grid["Run History Line Plot"]
        assert [c["metrics"] for c in lines] == [["val/accuracy"], ["retention/accuracy"]]
        bars = [c["metrics"] for c in grid["Bar Chart"]]
        assert bars == [["test/accuracy"], ["test/retention/accuracy"], ["test/retention/forgetting"]]
        for config in [*lines, *grid["Bar Chart"]]:
            assert (config["groupBy"], config["groupAgg"], config["groupArea"]) == ("jobType", "mean", "stddev")
        assert {c["xAxis"] for c in lines} == {"trainer/global_step"}, "W&B's own step is not the optimizer's"


def test_learned_against_kept_is_drawn_for_the_chosen_runs_on_test_and_for_all_on_validation(
    study: Path, logged_in: ReportServer
) -> None:
    write_report([study], "somebody", "study-project")
    planes = [g for g in grids(logged_in.views[0]) if "Scatter Plot" in g]
    axes = [(g["Scatter Plot"][0]["xAxis"], g["Scatter Plot"][0]["yAxis"]) for g in planes]
    on_test = ("summary:test/accuracy", "summary:test/retention/accuracy")
    on_validation = ("summary:selected/val/accuracy", "summary:selected/retention/accuracy")
    assert axes == [on_test, on_validation] * 2
    for grid in planes:
        assert grid["runset"]["grouping"] == [], "seeds are drawn together"
        assert set(grid["colours"]) == set(filters(grid)["name"]), "a run has no colour of its arm"
    chosen, every = planes[:2]
    assert set(filters(chosen)["name"]) == selected(study, 5)
    assert set(filters(chosen)["name"]) < set(filters(every)["name"])
    assert len(set(every["colours"].values())) == len(ARMS), "arms share a colour"


def test_runs_of_no_study_are_compared_by_their_ids_and_experiments(tmp_path: Path, logged_in: ReportServer) -> None:
    for name in ("plain", "anchored"):
        for seed in range(2):
            write_run(tmp_path / f"digits-{name}" / f"{name}-{seed}", experiment=f"digits-{name}", seed=seed)
    write_report([tmp_path], None, "study-project")
    (view,) = logged_in.views
    assert view["entityName"] == "somebody", "the default entity of who is logged in was not asked for"
    first = grids(view)[0]
    assert filters(first) == {"name": ["anchored-0", "anchored-1", "plain-0", "plain-1"]}
    assert [k["name"] for k in first["runset"]["grouping"]] == ["group"]


def test_no_secret_is_sent(tmp_path: Path, logged_in: ReportServer) -> None:
    secret = "hf_" + "a1B2c3D4" * 4
    write_run(tmp_path / "one")
    record = json.loads((tmp_path / "one/run.json").read_text())
    (tmp_path / "one/run.json").write_text(json.dumps({**record, "status": "failed", "reason": f"refused {secret}"}))
    write_report([tmp_path], "somebody", "study-project", f"of {secret}")
    sent = json.dumps(logged_in.views)
    assert secret not in sent
    assert "refused ***" in sent


# ---- where it cannot be written ----


def not_written(study: Path, *told: str, project: str = "study-project") -> None:
    with refused("--wandb-report", *told):
        write_report([study], "somebody", project)


def test_without_the_library_the_extra_is_named(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    not_written(study, "pip install 'sft-lightning[wandb-report]'")


def test_without_a_key_it_says_how_to_log_in(
    study: Path, logged_in: ReportServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    not_written(study, "not logged in", "WANDB_API_KEY", "--html")


def test_a_key_that_is_none_is_refused(study: Path, logged_in: ReportServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "abc")
    not_written(study, "40+ characters", "wandb login")


def test_a_project_that_is_not_there_is_named(study: Path, logged_in: ReportServer) -> None:
    not_written(study, "somebody/nowhere", "not found", project="nowhere")
    assert not logged_in.views


@pytest.mark.parametrize("listens", [False, True], ids=["nothing listens", "it never answers"])
def test_without_a_server_it_says_so(study: Path, monkeypatch: pytest.MonkeyPatch, listens: bool) -> None:
    monkeypatch.setattr(wandb_report, "PATIENCE", 1.0)
    with socket.socket() as free:  # a port that stays ours
        free.bind(("127.0.0.1", 0))
        if listens:
            free.listen()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        not_written(study, "no answer from http://127.0.0.1", "WANDB_BASE_URL", "--html")


def test_a_process_of_wandb_that_does_not_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck:
        @staticmethod
        def teardown() -> None:
            released.wait(60)

    released = threading.Event()
    monkeypatch.setattr(wandb_report, "PATIENCE", 0.1)
    with refused("--wandb-report", "the service is busy"), wandb_report.said_in_one_line(Stuck):
        raise TimeoutError("the service is busy")
    assert not released.is_set()
    released.set()


def test_the_target_is_a_project_with_or_without_its_entity() -> None:
    assert parse_target("digits") == (None, "digits")
    assert parse_target("team/digits") == ("team", "digits")
    for wrong in ("", "team/", "/digits", "a/b/c"):
        with refused("--wandb-report", f"'{wrong}'", "ENTITY/PROJECT"):
            parse_target(wrong)
