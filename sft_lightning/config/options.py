"""The options of a run, defined once for the command line, Python and the help text."""

from dataclasses import dataclass, fields
from inspect import getdoc
from typing import Any, Literal, get_type_hints

from docstring_parser import parse


@dataclass
class RunOptions:
    """Options of a run: where it is stored, what is measured, and what is saved. Each is a flag of `fit`.

    Args:
        experiment: Name of the experiment; default the folder and file name of --config.
        runs_dir: Root of run directories; default SFT_RUNS_DIR, else runs.
        run_id: Name of this run and its W&B id; default a new one.
        drift_rows: Number of samples of a split, drawn evenly, on which the network is compared with the pretrained
            one; a smaller split is used whole. Default 1024; with masks and boxes, while fitting, one for each 25
            training samples between two validations, and at least 16.
        relearn_rows: Number of the source task's training samples on which a fresh linear head is solved at each
            measurement, to tell knowledge that is gone from a head that no longer fits; null for none.
        calibration: Measure how well probabilities of classes fit, of the new head and of the kept source head: ECE and
            Brier score, which `select_by` may name too.
        retention_sets: More sets on which the source task is measured, by name, each with class_path and init_args as
            retention has, or with corruption (noise, blur, contrast or jpeg of images, typos of texts) and severity (1 to
            5; default 3); their metrics are retention/NAME/…. Files may write all sets as retention, by name.
        select_by: Metric that chooses best.ckpt; default val/ and the task's first metric. A tie goes to the
            lower val/loss.
        test_after_fit: After fit, measure best.ckpt once on the test split.
        wandb: Where W&B records go; offline needs no account.
        wandb_fallback: What --wandb online does if no server answers: record offline; null for an error before
            training.
        wandb_project: W&B project.
        wandb_group: W&B group; default the experiment.
        wandb_job_type: W&B job type; default the variant.
        wandb_tags: W&B tags.
        save_every_n_steps: Save last.ckpt every so many optimizer steps, in addition to each validation.
        save_every_minutes: Save last.ckpt every so many minutes, in addition to each validation.
        quiet: Print nothing but the run's path.
    """

    experiment: str | None = None
    runs_dir: str | None = None
    run_id: str | None = None
    drift_rows: int | None = None
    relearn_rows: int | None = None
    calibration: bool = False
    retention_sets: dict[str, Any] | None = None
    select_by: str | None = None
    test_after_fit: bool = False
    wandb: Literal["online", "offline", "disabled"] = "offline"
    wandb_fallback: Literal["offline"] | None = None
    wandb_project: str = "sft_lightning"
    wandb_group: str | None = None
    wandb_job_type: str | None = None
    wandb_tags: list[str] | None = None
    save_every_n_steps: int | None = None
    save_every_minutes: float | None = 10.0
    quiet: bool = False


TEXTS = {p.arg_name: " ".join((p.description or "").split()) for p in parse(getdoc(RunOptions) or "").params}
OPTIONS: list[tuple[str, Any, Any, str]] = [
    (f.name, get_type_hints(RunOptions)[f.name], f.default, TEXTS[f.name]) for f in fields(RunOptions)
]
"""(name, type, default, help) of each option"""
NOT_SAVED = ("config", "run_id", "ckpt_path")
"""Settings that config.yaml leaves out, because with them `fit --config config.yaml` would not repeat the run"""
NOT_WRITTEN = "not_written"
"""Key of config.yaml with what could not be written of a run from Python: {key: why}. Commands refuse such a file"""


def options_of(settings: Any) -> RunOptions:
    """Returns the options among a command's parsed settings."""
    return RunOptions(**{name: settings[name] for name, *_ in OPTIONS if name in settings})


def monitored(options: Any) -> dict[str, Any]:
    """Returns the arguments of RetentionMonitor among a run's options."""
    own = {name: getattr(options, name) for name in ("drift_rows", "relearn_rows", "calibration")}
    return {**own, "sets": options.retention_sets}


def underscored(argument: str) -> str:
    """Turns `--run-id` into `--run_id`: other tools write options with hyphens."""
    name, is_given, value = argument.partition("=")
    known = {f"--{option}" for option, *_ in OPTIONS} | {"--ckpt_path", "--seed_everything"}
    wanted = "--" + name[2:].replace("-", "_")
    return wanted + is_given + value if name.startswith("--") and wanted in known else argument
