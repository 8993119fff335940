"""Options of fit, validate, test and predict beside Lightning's: name, type, default, help."""

from typing import Any, Literal

OPTIONS: list[tuple[str, Any, Any, str]] = [
    ("experiment", str | None, None, "Name of the experiment; default the folder and file name of --config."),
    ("runs_dir", str | None, None, "Root of run directories; default SFT_RUNS_DIR, else runs."),
    ("run_id", str | None, None, "Name of this run, which is its W&B id too; default a fresh one."),
    (
        "drift_rows",
        int,
        1024,
        "Samples of a split, drawn evenly, on which the network is compared with the pretrained one; all if no more.",
    ),
    (
        "select_by",
        str | None,
        None,
        "Metric that chooses best.ckpt; default val/ and the task's first metric. A tie goes to the lower val/loss.",
    ),
    ("test_after_fit", bool, False, "After fit, measure best.ckpt once on the test split."),
    ("wandb", Literal["online", "offline", "disabled"], "offline", "Where W&B records go; offline needs no account."),
    (
        "wandb_fallback",
        Literal["offline"] | None,
        None,
        "What --wandb online does where no server answers: go on offline; null for an error before training.",
    ),
    ("wandb_project", str, "sft_lightning", "W&B project."),
    ("wandb_group", str | None, None, "W&B group; default the experiment."),
    ("wandb_job_type", str | None, None, "W&B job type; default the variant."),
    ("wandb_tags", list[str] | None, None, "W&B tags."),
    ("save_every_n_steps", int | None, None, "Save last.ckpt every so many optimizer steps, besides at validations."),
    ("save_every_minutes", float | None, 10.0, "Save last.ckpt every so many minutes, besides at validations."),
    ("quiet", bool, False, "Print nothing but the run's path."),
]
