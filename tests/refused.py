"""What a test asks of an error that the user can mend: its key and the values in it, never its wording."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sft_lightning.core.errors import UserError

PREFIX = "sft-lightning: error: "


@contextmanager
def refused(key: object, *values: object) -> Iterator[pytest.ExceptionInfo[UserError]]:
    """The block must raise a UserError.

    Args:
        key: The UserError's key.
        values: What the message must hold: names, numbers and files from the input, or the options and values to use.
    """
    with pytest.raises(UserError) as found:
        yield found
    check_message(str(found.value), key, *values)


def check_printed(err: str, key: object, *values: object) -> None:
    """Standard error must hold one line of error, with this key and these values, and no traceback."""
    lines = [line for line in err.splitlines() if line.startswith(PREFIX)]
    assert len(lines) == 1, f"one line of error expected:\n{err}"
    assert "Traceback" not in err, f"the user's error has a traceback:\n{err}"
    check_message(lines[0].removeprefix(PREFIX), key, *values)


def check_message(message: str, key: object, *values: object) -> None:
    """`key: problem; fix` with these values."""
    found = message.partition(": ")[0]
    assert found == str(key), f"the error is at {found}, expected at {key}: {message}"
    for value in values:
        assert str(value) in message, f"the error does not name {value}: {message}"
