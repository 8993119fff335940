"""The parser of commands that Trainer does not have. It raises its errors as UserError."""

import argparse
import re
from typing import Any, NoReturn

from sft_lightning.core.errors import UserError


class Parser(argparse.ArgumentParser):
    """Parses one command's options, which must be written in full.

    Args:
        command: The command's name.
        about: More arguments of ArgumentParser.
    """

    def __init__(self, command: str, **about: Any) -> None:
        about.setdefault("formatter_class", lambda prog: argparse.HelpFormatter(prog, max_help_position=28, width=110))
        super().__init__(prog=f"sft-lightning {command}", allow_abbrev=False, **about)
        self.command = command

    def error(self, message: str) -> NoReturn:
        key, problem, fix = self.command, message, f"see {self.command} --help"
        if found := re.match(r"argument (--[\w-]+)(?:/\S+)*: (.*)", message):
            key, problem = found[1], found[2]
        elif found := re.match(r"unrecognized arguments: (\S+)", message):
            key, problem = found[1], f"{self.command} has no such option"
        raise UserError(key, problem, fix)
