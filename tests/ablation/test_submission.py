"""What `ablate --launcher slurm` submits, and what it does not: sbatch, squeue and scancel are stand-ins that note it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sft_lightning.ablation.study_dir import StudyDir
from sft_lightning.cli.main import main
from tests.ablation.test_status import HOLD
from tests.ablation.test_studies import write
from tests.refused import check_printed

SBATCH = """#!/bin/sh
n=$(/usr/bin/wc -l < {0}/submitted); n=$((n * 10 + 100))
for script; do :; done
echo "$*" >> {0}/submitted
/bin/cp "$script" {0}/$n.sbatch
echo $n
"""


class Cluster:
    """The stand-ins, first on PATH. Jobs are called 100, 110, 120, …"""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "submitted").touch()
        self.program("sbatch", SBATCH.format(folder))
        self.program("scancel", f'#!/bin/sh\necho "$*" >> {folder}/cancelled\n')
        self.holds()

    def program(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def holds(self, *lines: str, code: int = 0) -> None:
        """What squeue says."""
        said = "\n".join(lines)
        self.program("squeue", f"#!/bin/sh\n/bin/cat <<'TEXT'\n{said}\nTEXT\nexit {code}\n")

    def lines(self, name: str) -> list[str]:
        file = self.folder / name
        return file.read_text().splitlines() if file.is_file() else []

    def points(self, job: int) -> list[str]:
        """Those of an array's script, by its tasks."""
        (found,) = re.findall(r"^points=\((.*)\)$", (self.folder / f"{job}.sbatch").read_text(), re.MULTILINE)
        return found.split()


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return Cluster(tmp_path / "bin")


@pytest.fixture
def ablate(tmp_path: Path, cluster: Cluster, capsys: pytest.CaptureFixture[str]):
    """`ablate()`: submits a study of 8 points; returns (exit code, what was said, its folder)."""
    file = write(tmp_path / "mine.yaml")

    def submitted() -> tuple[int, str, StudyDir]:
        code = main(["ablate", "--config", str(file), "--runs_dir", str(tmp_path / "runs"), "--launcher", "slurm"])
        said = capsys.readouterr()
        return code, said.out + said.err, StudyDir(tmp_path / "runs/mine")

    return submitted


def finish(folder: StudyDir, point: str) -> None:
    folder.run(point).path.mkdir(exist_ok=True)
    folder.run(point).record.write_text(json.dumps({"status": "finished", "metrics": {}}))


def test_a_new_study_is_an_array_of_all_its_points_and_a_job_after_it(cluster: Cluster, ablate) -> None:
    code, said, folder = ablate()
    assert code == 0, said
    first, second = cluster.lines("submitted")
    assert first.endswith("points.sbatch") and "--dependency=afterany:100 " in second
    assert len(set(cluster.points(100))) == 8
    assert {f.stem for f in (folder.path / "plan").glob("*.yaml")} == set(cluster.points(100))


def test_while_jobs_wait_or_run_only_points_without_one_are_submitted_again(cluster: Cluster, ablate) -> None:
    points = cluster.points(100) if ablate()[0] == 0 else []
    cluster.holds(
        *(f"100_{i}|{state}|None|ablate-mine" for i, state in ((1, "RUNNING"), (2, "PENDING"), (3, "COMPLETING"))),
        "110|PENDING|Dependency|ablate-mine-collect",
        "100_7|RUNNING|None|somebodys-else",  # an id that was given anew
    )
    code, said, folder = ablate()
    assert code == 0, said
    assert cluster.points(120) == [p for i, p in enumerate(points) if i not in (1, 2, 3)]
    assert "--dependency=afterany:100:120 " in cluster.lines("submitted")[3], "it would not wait for the first array"
    assert cluster.lines("cancelled") == ["110"], "two jobs would go on with the study"
    assert "3 points wait or run already: job 100" in said
    for point in points[4:]:
        finish(folder, point)
    cluster.holds(
        *(f"100_{i}|PENDING|None|ablate-mine" for i in (1, 2, 3)),
        "120_0|PENDING|None|ablate-mine",
        "130|PENDING|Dependency|ablate-mine-collect",
    )
    code, said, _ = ablate()
    assert (code, len(cluster.lines("submitted"))) == (0, 4), said
    assert "collect job 130 follows; nothing was submitted" in said


def test_a_point_keeps_its_job_whatever_is_submitted_later(cluster: Cluster, ablate) -> None:
    ablate()
    before = (cluster.folder / "100.sbatch").read_text()
    points = cluster.points(100)
    _, _, folder = ablate()
    assert cluster.points(120) == points, "all jobs are over, and nothing is done"
    assert before == (cluster.folder / "100.sbatch").read_text() and not (folder.path / "slurm/points.txt").exists()


def test_where_the_queue_is_not_known_nothing_is_submitted(cluster: Cluster, ablate) -> None:
    ablate()
    cluster.holds(code=1)
    code, said, _ = ablate()
    assert code == 2 and len(cluster.lines("submitted")) == 2
    assert len(said.strip().splitlines()) == 1
    check_printed(said, "--launcher slurm", "squeue")


def test_a_finished_study_has_its_collecting_job_alone(cluster: Cluster, ablate) -> None:
    _, _, folder = ablate()
    for point in cluster.points(100):
        finish(folder, point)
    cluster.holds()
    code, said, _ = ablate()
    assert code == 0, said
    assert len(cluster.lines("submitted")) == 3 and "--dependency" not in cluster.lines("submitted")[2]


def test_a_task_whose_point_is_finished_or_held_by_another_leaves_it(tmp_path: Path, capsys) -> None:
    folder = StudyDir(tmp_path / "mine")
    folder.make()
    folder.config("p").write_text("{}")
    finish(folder, "p")
    folder.run("p").last.parent.mkdir()
    folder.run("p").last.touch()
    assert main(["ablate", "--study_folder", str(folder.path), "--point", "p"]) == 0
    assert "point p: finished already" in capsys.readouterr().out
    folder.config("q").write_text("{}")
    folder.run("q").path.mkdir()
    command = [sys.executable, "-c", HOLD, str(folder.run("q").path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        assert main(["ablate", "--study_folder", str(folder.path), "--point", "q"]) == 0
    finally:
        process.kill()
        process.communicate()
    assert "point q: another process is at it" in capsys.readouterr().out
    assert not folder.note("p").exists() and not folder.note("q").exists(), "they were fitted, and may be called failed"
