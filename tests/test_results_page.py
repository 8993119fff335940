"""docs/results.md is what the studies found."""

from benchmarks.studies import PAGE, page


def test_the_page_is_what_was_taken_in() -> None:
    assert PAGE.read_text() == page(), "docs/results.md is out of date: run `.venv/bin/python -m benchmarks.studies`"
