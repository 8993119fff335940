"""Lightning's own loggers beside ours, by their class paths: they get the same metrics under the same names."""

import csv
import json
from pathlib import Path

from sft_lightning.cli.main import main


def test_a_csv_logger_gets_every_metric_under_its_own_name(tmp_path: Path) -> None:
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": str(tmp_path / "csv")}}
    short = ("--trainer.max_epochs", "2", "--trainer.check_val_every_n_epoch", "1", "--test_after_fit", "false")
    start = ("fit", "--config", "experiments/digits/distill.yaml", "--wandb", "disabled", "--run_id", "one")
    assert main([*start, *short, "--runs_dir", str(tmp_path / "runs"), "--trainer.logger", json.dumps(logger)]) == 0
    (ours,) = (tmp_path / "runs").glob("*/one/metrics.jsonl")
    (theirs,) = (tmp_path / "csv").rglob("metrics.csv")
    rows = [json.loads(line) for line in ours.read_text().splitlines()]
    with theirs.open(newline="") as file:
        logged = list(csv.DictReader(file))
    names = {name for row in rows for name in row} - {"time"}
    assert set(logged[0]) == names
    for name in ("val/accuracy", "retention/accuracy", "drift/kl"):
        mine = [row[name] for row in rows if name in row]
        assert [float(row[name]) for row in logged if row[name]] == mine
