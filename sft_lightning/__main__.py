"""`python -m sft_lightning`: starts the command line."""

from typing import NoReturn

from sft_lightning.core.interpreter import begin, leave


def start() -> NoReturn:
    """Runs this process's command, and ends the process with its exit code."""
    begin()
    from sft_lightning.cli.main import command

    leave(command())


if __name__ == "__main__":
    start()
