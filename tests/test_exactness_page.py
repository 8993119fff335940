"""docs/exactness.md says what the results say, and every promise names tests that are there."""

import json
import re

from benchmarks.exactness import PAGE, PEERS, PROMISES, RESULTS, ROOT, page


def test_every_promise_names_tests_that_are_there() -> None:
    for _, promises in PROMISES:
        for text, files, _ in promises:
            for file in files:
                assert (ROOT / file).is_file(), f"'{text[:50]}…' names {file}, which is not there"


def test_the_page_is_what_the_results_give() -> None:
    written = page(json.loads(RESULTS.read_text()), json.loads(PEERS.read_text()))
    assert PAGE.read_text() == written, "docs/exactness.md is not what the results give: python -m benchmarks.exactness"


def test_no_test_that_holds_a_promise_failed_or_was_left_out_when_the_page_was_made() -> None:
    tests = json.loads(RESULTS.read_text())["tests"]
    for _, promises in PROMISES:
        for _, files, _ in promises:
            for file in files:
                assert tests[file]["passed"] and not tests[file]["failed"], f"{file} did not pass: run `make exactness`"


def test_every_figure_stands_under_a_promise() -> None:
    patterns = [pattern for _, promises in PROMISES for _, _, pattern in promises]
    for key in json.loads(RESULTS.read_text())["figures"]:
        assert any(re.search(p, key, re.I) for p in patterns), f"no promise shows the figure '{key}'"
