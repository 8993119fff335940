"""The command line's fixture, for tests that kill."""

from tests.cli.conftest import command

__all__ = ["command"]
