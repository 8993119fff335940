"""From `submit`'s options to the script, and what is refused before a job waits in a queue."""

import json
import subprocess
from pathlib import Path

import pytest

from sft_lightning.cli.main import main
from sft_lightning.cluster.profile import read_profile
from sft_lightning.cluster.wall_time import parse_time, written
from tests.cluster.conftest import ROOT, Slurm, StandIn
from tests.refused import check_printed, refused

DIGITS = str(ROOT / "experiments/digits/plain.yaml")
PARTITIONS = """\
PartitionName=debug Default=YES MaxTime=UNLIMITED TotalNodes=2
PartitionName=short Default=NO MaxTime=00:05:00 TotalNodes=2"""
SEVERAL_HOSTS = "NodeName=a NodeAddr=a NodeHostName=a\nNodeName=b NodeAddr=b NodeHostName=b"


def submit(*arguments: object) -> int:
    return main(["submit", *map(str, arguments)])


@pytest.fixture
def script(tmp_path: Path, scontrol: StandIn, capsys: pytest.CaptureFixture[str]):
    """`script(*options)`: the text of a dry run, whose syntax bash takes."""
    scontrol.answers(PARTITIONS)

    def made(*options: object) -> str:
        assert submit("--config", DIGITS, "--runs_dir", tmp_path, "--dry-run", *options) == 0
        text = capsys.readouterr().out
        done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"bash does not take the script: {done.stderr}"
        return text

    return made


def test_the_script_asks_for_what_the_options_say(script, tmp_path: Path) -> None:
    text = script("--nodes", 2, "--gpus-per-node", 2, "--time", "04:00:00", "--partition", "debug", "--account", "me")
    for option in ("nodes=2", "ntasks-per-node=2", "gpus-per-node=2", "time=04:00:00", "partition=debug", "account=me"):
        assert f"#SBATCH --{option}\n" in text
    for option in ("requeue", "open-mode=append", "signal=USR1@180"):
        assert f"#SBATCH --{option}\n" in text, "without it the run would not come back, or not whole"
    assert 'srun --kill-on-bad-exit=1 bash -c \'trap "" USR1; exec' in text
    assert "test -e" in text, "that all nodes see the run's folder is asked where it runs, too"
    assert not list(tmp_path.glob("**/*.sbatch")), "a dry run wrote something"


def test_options_of_fit_come_after_two_dashes_and_reach_it_whole(script) -> None:
    text = script("--", "--model.lr", "1e-4", "--wandb_tags", "['it''s', 'a b']")
    assert "--model.lr 1e-4" in text and """'['"'"'it'"'"''"'"'s'"'"', '"'"'a b'"'"']'""" in text


def test_each_run_of_an_array_has_its_own_directory_and_number(script) -> None:
    text = script("--array", "0-4%2", "--run_id", "many", "--", "--seed_everything", "{task}")
    assert "#SBATCH --array=0-4%2\n" in text
    assert '--run_id "many-$SLURM_ARRAY_TASK_ID"' in text and '--seed_everything "$SLURM_ARRAY_TASK_ID"' in text
    text = script("--array", "0-4", "--", "--wandb_tags", "[a'{task}$HOME]")
    assert """--wandb_tags '[a'"'"''"$SLURM_ARRAY_TASK_ID"'$HOME]'""" in text, "what is not the number is quoted"
    assert 'scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"' in text


PROFILE = """
partition: debug
time: 2-00
gpus: gres
gpu_type: a100
lead_s: 300
modules: [cuda/12.4, python]
setup: ['source ~/venv/bin/activate']
container: apptainer exec --nv image.sif
python: python3
scratch: $TMPDIR
env: {NCCL_DEBUG: WARN}
network: false
sbatch: [--exclusive]
"""


def test_a_profile_says_what_is_the_same_for_all_jobs_and_options_win(script, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(PROFILE)
    (tmp_path / "data").mkdir()
    text = script(
        *(
            "--profile",
            tmp_path / "p.yaml",
            "--gpus-per-node",
            2,
            "--time",
            "1-00",
            "--lead",
            240,
            "--max-idle-returns",
            3,
        ),
        *("--stage-data", f"data.root={tmp_path / 'data'}", "--", "--data", "TREC"),
    )
    for line in ("gres=gpu:a100:2", "time=1-00", "partition=debug", "exclusive", "signal=USR1@240"):
        assert f"#SBATCH --{line}\n" in text
    shell = ("module load cuda/12.4 python", "source ~/venv/bin/activate", "export NCCL_DEBUG=WARN")
    for line in (*shell, "export SFT_MAX_IDLE_RETURNS=3"):
        assert f"\n{line}\n" in text
    assert "--wandb_fallback offline" in text, "its nodes have no network"
    assert "srun --kill-on-bad-exit=1 apptainer exec --nv image.sif bash -c" in text
    assert "scratch=$TMPDIR/sft-$SLURM_JOB_ID" in text and '--data.init_args.root "$scratch/0-data"' in text


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ([], ("submit", "--config EXPERIMENT", "--resume RUN")),
        (["--config", "nothing.yaml"], ("--config", "nothing.yaml")),
        (["--resume", "/nowhere"], ("--resume", "/nowhere", "config.yaml")),
        (["--config", DIGITS, "--job-name", "interactive"], ("--job-name", "'interactive'")),
        (["--config", DIGITS, "--time", "soon"], ("--time", "'soon'", "04:00:00")),
        (["--config", DIGITS, "--time", "00:04:00"], ("--time", "00:04:00", "180 s", "00:05:00", "--lead")),
        (
            ["--config", DIGITS, "--partition", "short", "--time", "60"],
            ("--time", "60", "00:05:00", "partition short", "--partition debug"),
        ),
        (["--config", DIGITS, "--partition", "shrot"], ("--partition", "'shrot'", "'short'", "debug, short")),
        (["--config", DIGITS, "--nodes", "3"], ("--nodes", "3", "partition debug", "2")),
        (["--config", DIGITS, "--sbatch=--gpus-per-task=1"], ("--sbatch=--gpus-per-task=1", "--gpus-per-node")),
        (["--config", DIGITS, "--sbatch=--ntasks=2"], ("--sbatch=--ntasks=2", "--nodes", "--tasks-per-node")),
        (["--config", DIGITS, "--sbatch=--signal=TERM@9"], ("--sbatch=--signal=TERM@9", "--lead", "--max-requeues")),
        (
            ["--config", DIGITS, "--gpus-per-node", "2", "--tasks-per-node", "1"],
            ("--tasks-per-node", "1", "--gpus-per-node 2"),
        ),
        (["--config", DIGITS, "--tasks-per-node", "3"], ("data.batch_size", "20", "3 ranks", "multiple of 3")),
        (["--config", DIGITS, "--", "--trainer.num_nodes", "2"], ("trainer.num_nodes", "2", "--nodes 1")),
        (["--config", DIGITS, "--", "--trainer.devices", "4"], ("trainer.devices", "4", "1 per node")),
        (["--config", DIGITS, "--", "--model.lrr", "1"], ("model", "'lrr'", "'lr'")),
        (["--config", DIGITS, "--", "--seed_everything", "{task}"], ("submit", "'{task}'", "--array")),
        (["--config", DIGITS, "--stage-data", "data.root=/etc"], ("--stage-data", "scratch")),
        (["--config", DIGITS, "--max-idle-returns", "0"], ("--max-idle-returns", "1", "0")),
        (["--config", DIGITS, "--", "--wandb_project", "https://me:hunter2secret@x.org/a"], ("submit", "secret")),
        (["--config", DIGITS, "--sync"], ("--sync", "sync_partition")),
        (["--config", DIGITS, "--profile", "mars"], ("--profile", "'mars'", "slurm/profiles/mars.yaml", "laptop")),
    ],
)
def test_what_could_not_run_is_refused_before_it_waits(
    options: list[str], refusal: tuple[str, ...], tmp_path: Path, scontrol: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    scontrol.answers(PARTITIONS)
    at = options.index("--") if "--" in options else len(options)
    assert submit(*options[:at], "--runs_dir", tmp_path / "runs", *options[at:]) == 2
    error = capsys.readouterr().err
    check_printed(error, *refusal)
    assert len(error.strip().splitlines()) == 1 and "hunter2" not in error
    assert not (tmp_path / "runs").exists(), "something was left behind"


def test_several_nodes_need_a_folder_that_all_of_them_see(
    tmp_path: Path, scontrol: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    scontrol.answers(f"{PARTITIONS}\n{SEVERAL_HOSTS}")
    assert submit("--config", DIGITS, "--nodes", 2, "--runs_dir", "/dev/shm/runs", "--dry-run") == 2
    check_printed(capsys.readouterr().err, "--runs_dir", "/dev/shm/runs")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("partitoin: x", ("'partitoin'", "'partition'")),
        ("lead_s: soon", ("lead_s", "'soon'", "whole number above 0")),
        ("modules: cuda", ("modules", "'cuda'", "list")),
        ("time: 4:00:00", ("time", "14400", "quotes")),
        ("[1]", ("mapping",)),
        ("a: [", ()),
    ],
)
def test_a_profile_that_is_none_is_refused(text: str, values: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with refused("--profile", tmp_path / "p.yaml", *values):
        read_profile(str(tmp_path / "p.yaml"))


def test_every_shipped_profile_is_one() -> None:
    files = sorted((ROOT / "slurm/profiles").glob("*.yaml"))
    assert files
    for file in files:
        assert read_profile(str(file)).lead_s > 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 1800), ("30:00", 1800), ("4:00:00", 14400), ("2-00", 172800), ("1-12:30", 131400), ("1-0:0:5", 86405)],
)
def test_wall_times_are_read_as_sbatch_reads_them(text: str, seconds: int) -> None:
    assert parse_time(text) == seconds and parse_time(written(seconds)) == seconds


@pytest.mark.slow
def test_what_is_submitted_ends_as_the_same_fit_here(
    slurm: Slurm, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    short = ["--trainer.max_epochs", "4", "--trainer.accelerator", "cpu", "--wandb", "disabled"]
    where = ["--runs_dir", str(tmp_path / "runs"), "--experiment", "e"]
    assert submit("--config", DIGITS, *where, "--run_id", "there", "--time", "10", "--", *short) == 0
    said = capsys.readouterr().out
    job = said.split()[1]
    slurm.jobs.append(job)
    about = slurm.wait(job, timeout=600)
    assert about["JobState"] == "COMPLETED", slurm.output(job)
    assert main(["fit", "--config", DIGITS, *where, "--run_id", "here", *short]) == 0
    there, here = (json.loads((tmp_path / "runs/e" / n / "run.json").read_text()) for n in ("there", "here"))
    assert there["status"] == "finished" and there["metrics"] == here["metrics"]
    for word in ("run ", "log ", "follow ", "stop ", "resume "):
        assert word in said
