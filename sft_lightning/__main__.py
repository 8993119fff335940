"""`python -m sft_lightning`: hands over to the command line."""

import sys

from sft_lightning.cli.main import command

if __name__ == "__main__":
    sys.exit(command())
