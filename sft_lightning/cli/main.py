"""The entry point of the command line. Help and version come at once: heavy imports wait until a command needs them."""

import signal
import sys
import traceback

from sft_lightning import __version__
from sft_lightning.cluster.allocation import allocation
from sft_lightning.cluster.requeue import hold, last_word, watch_the_clock, watch_the_signal
from sft_lightning.core import redaction
from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.interpreter import imported
from sft_lightning.core.signals import PREEMPT, SIGNALS, Interrupted

COMMANDS = {
    "fit": "Fine-tune a network on data with a variant; target and retention are measured side by side.",
    "validate": "Measure a run's (or a checkpoint's) metrics on the validation split.",
    "test": "Measure a run's (or a checkpoint's) metrics on the test split.",
    "predict": "Write a run's (or a checkpoint's) predictions; predict MODEL answers your own samples.",
    "ablate": "Compare ways of fine-tuning over seeds: settings chosen on validation, test touched once.",
    "study": "Show the state of a study: its points and, on Slurm, their jobs.",
    "submit": "Submit a fit as a Slurm job that comes back after preemption.",
    "compare": "Compare runs and studies: what was learned, what was kept, at what cost.",
    "runs": "List runs, show one, or remove what may go.",
    "export": "Write a run's model for other libraries, and show that it answers there as it does here.",
    "serve": "Answer over HTTP with the model of a run or an export.",
    "path": "Measure a run between its pretrained and its tuned weights (WiSE-FT, LiNeS), and write a point as a run.",
    "gate": "Decide whether a model may replace another one: tests on the same samples, and an exit code.",
}
ELSEWHERE = {
    "ablate": "sft_lightning.cli.ablate",
    "study": "sft_lightning.cli.study",
    "submit": "sft_lightning.cli.submit",
    "compare": "sft_lightning.cli.compare",
    "runs": "sft_lightning.cli.runs",
    "export": "sft_lightning.cli.export",
    "serve": "sft_lightning.cli.serve",
    "path": "sft_lightning.cli.path",
    "gate": "sft_lightning.cli.gate",
}
"""Commands that Trainer does not have: the modules whose `main` runs them."""


def overview() -> str:
    """Returns the text of `--help`."""
    lines = ["usage: sft-lightning COMMAND --config FILE [--key value ...]", "", "commands:"]
    lines += [f"  {name:<10}{text}" for name, text in COMMANDS.items()]
    lines += [
        "",
        "options:",
        "  -h, --help     this text; COMMAND --help for a command's options",
        "  --version      the version",
        "",
        "Every key of a config is a flag: --model.init_args.lr 1e-4. Start with experiments/digits/distill.yaml.",
    ]
    return "\n".join(lines)


def main(args: list[str] | None = None) -> int:
    """Runs a command and returns its exit code.

    0: done; 1: a bug (with its traceback); 2: a mistake of the user (one line on stderr); 3 and 4: `gate` fails, or cannot
    decide; 130 after Ctrl-C, 143 after SIGTERM, 138 after SIGUSR1.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"sft-lightning {__version__}")
        return 0
    command = arguments[0]
    SIGNALS.install()
    redaction.forget()
    redaction.learn_arguments(arguments)
    try:
        with redaction.guarded_streams():
            return dispatch(command, arguments)
    except Exception:  # a bug: its traceback, without secrets
        said = traceback.format_exc()
        if (shown := redaction.redact(said)) == said:
            raise
        print(shown, end="", file=sys.stderr)
        return 1
    finally:
        SIGNALS.restore()


def dispatch(command: str, arguments: list[str]) -> int:
    """Runs a command and prints a user's mistake in one line. Returns the exit code."""
    try:
        if command not in COMMANDS:
            raise UserError(
                "command", f"there is no '{command}'{nearest(command, COMMANDS)}", f"choose {', '.join(COMMANDS)}"
            )
        if arguments[1:] in (["--help"], ["-h"]) and command not in ELSEWHERE:
            from sft_lightning.cli.help import help_text

            print(help_text(command, COMMANDS[command]), end="")
            return 0
        if command == "predict" and arguments[1:2] and not arguments[1].startswith("-"):
            from sft_lightning.cli.predict import main as predict

            imported()
            return predict(arguments[1:])
        if command in ELSEWHERE:
            from importlib import import_module

            elsewhere = import_module(ELSEWHERE[command])
            imported()
            code: int = elsewhere.main(arguments[1:])
            return code
        from sft_lightning.cli.names import refuse_unknown

        refuse_unknown(arguments)
        from sft_lightning.cli.fit import run

        imported()
        return run(arguments)
    except UserError as error:
        print(f"sft-lightning: error: {error}", file=sys.stderr)
        return 2
    except SystemExit as stop:  # the parser, after --help or --print_config
        return stop.code if isinstance(stop.code, int) else 0
    except Interrupted as stop:
        return stop.exit_code
    except KeyboardInterrupt:
        return 130


def command() -> int:
    """Runs the command of this process. If Slurm preempts it, the job asks to be requeued."""
    signal.signal(PREEMPT, hold)
    job = allocation()
    if job is not None:
        watch_the_clock(job)
    watch_the_signal(sys.argv[1:])
    code = last_word(main(), sys.argv[1:])
    # Python removes handlers when it exits, and a signal would kill it. A service that has stopped may be asked again.
    for signum in (PREEMPT, *((signal.SIGTERM, signal.SIGINT) if sys.argv[1:2] == ["serve"] else ())):
        signal.signal(signum, signal.SIG_IGN)
    return code
