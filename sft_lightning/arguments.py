"""The parser of commands that are no methods of Trainer: its errors are the user's, in one line."""

import argparse
from typing import NoReturn

from sft_lightning.errors import UserError


class Parser(argparse.ArgumentParser):
    """`prog` ends with the command's name."""

    def error(self, message: str) -> NoReturn:
        command = self.prog.rpartition(" ")[2]
        raise UserError(f"{command}: {message}; see {command} --help")
