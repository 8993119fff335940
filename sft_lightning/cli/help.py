"""Writes the text of `COMMAND --help` from signatures and docstrings in the source, so that it appears at once."""

import textwrap

from sft_lightning.cli.signatures import Classes, written
from sft_lightning.config.options import OPTIONS

WIDTH = 110
ONLY_FIT = ("select_by", "test_after_fit")
KEYS = {
    "model": "The variant: how the network is tuned.",
    "network": "The network that is tuned.",
    "data": "The target task's data, which also sets the task, the outputs and the labels.",
    "retention": "The source task's data, to measure what is kept: any class of data.",
}
TRAINER = {
    "max_epochs": "Passes over the training samples.",
    "accelerator, devices, num_nodes, strategy": "Where to run: cpu, gpu, auto; how many; ddp, or fsdp2 for large networks.",
    "precision": "32-true, bf16-mixed, 16-mixed, 64-true.",
    "accumulate_grad_batches": "Micro-batches per optimizer step; data.batch_size stays the whole step's.",
    "gradient_clip_val": "Largest gradient norm, after the anchor's gradient was added.",
    "check_val_every_n_epoch, val_check_interval": "How often the run is validated; val_check_interval is in micro-batches.",
    "limit_train_batches": "Train on so many optimizer steps of each epoch (3), or a share of them (0.25).",
    "overfit_batches": "Train on the same few optimizer steps in every epoch, to check that the loss goes to 0.",
    "profiler": "simple, advanced or pytorch: write where time goes to fit-profile.txt of the run directory.",
    "callbacks": "More callbacks, such as EarlyStopping on a validation metric; its mode follows from the metric.",
}


def help_text(command: str, about: str) -> str:
    """Returns the help of a command: what it does, then one sentence for each option."""
    lines = [f"usage: sft-lightning {command} --config FILE [--key value ...]", "", about, ""]
    lines += ["Every key of a config is a flag; KEY.init_args.X may be written KEY.X.", "", "run:"]
    if command == "fit":
        lines += row("--resume RUN", "Continue a run from its own config.yaml and last.ckpt, in place.")
    else:
        lines += row("--run RUN", "The run: its config.yaml and best.ckpt are used, its run.json gets the result.")
    lines += row("--config FILE", "A YAML file; if several are given, later ones win.")
    lines += row(
        "--ckpt_path FILE", "A checkpoint of the same variant; to start from weights use network.init_args.pretrained."
    )
    lines += row("--import MODULE", "Import your own module first, so that its classes have short names.")
    lines += row("--seed_everything N", "Seed of initialisation, order and augmentation. [0]")
    for name, _, default, text in OPTIONS:
        if command == "fit" or name not in ONLY_FIT:
            lines += row(f"--{name}", text + in_brackets(written(default)))
    lines += row("--print_config", "Print the resolved configuration and stop.")
    lines += row("--help-all", "Every option of the parser, Trainer's too.")
    for key, text in KEYS.items():
        lines += ["", *row(f"--{key} CLASS", text)]
        if key != "retention":
            lines += classes(key)
    lines += ["", "trainer (the usual ones; other arguments of Lightning's Trainer work, or are refused):"]
    for name, text in TRAINER.items():
        lines += row(f"--trainer.{name}" if "," not in name else name, text)
    return "\n".join(line.rstrip() for line in lines) + "\n"


def classes(key: str) -> list[str]:
    """Lists the classes of a key with their arguments; arguments that all of them share come once, at the end."""
    source = Classes(key)
    found = {name: source.arguments(name) for name in source.names}
    everyones = list(found.values())
    shared = {n: a for n, a in everyones[0].items() if all(others.get(n) == a for others in everyones)}
    lines: list[str] = []
    for name, args in found.items():
        summary = f"{name}: {source.summary(name)}"
        lines += ["", *textwrap.wrap(summary, WIDTH, initial_indent="  ", subsequent_indent="    ")]
        for argument, (text, default) in args.items():
            if argument not in shared:
                lines += row(f"  .{argument}", text + in_brackets(default))
    if shared:
        lines += ["", f"  every {key}:"]
        for argument, (text, default) in shared.items():
            lines += row(f"  .{argument}", text + in_brackets(default))
    return lines


def in_brackets(default: str | None) -> str:
    """Returns ` [default]`, or an empty string if there is none to show."""
    return "" if default is None else f" [{default}]"


def row(name: str, text: str) -> list[str]:
    """Returns the lines of a row with two columns."""
    body = textwrap.wrap(text, WIDTH - 30) or [""]
    first = f"  {name:<27} {body[0]}" if len(name) <= 27 else f"  {name}"
    rest = body[1:] if len(name) <= 27 else body
    return [first, *(" " * 30 + line for line in rest)]
