"""`python -m sft_lightning`: starts the command line."""

import sys

from sft_lightning.cli.main import command

if __name__ == "__main__":
    sys.exit(command())
