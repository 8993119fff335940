"""Small finished runs, what `predict` says with them, and the service in this process."""

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from sft_lightning.cli.main import main
from sft_lightning.serve.answering import Model
from sft_lightning.serve.app import Limits, Service
from tests.export.cases import make_run
from tests.serve.waiting import until

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "a",
    "Nobody laughed, not even once, in New York City! " * 30,  # longer than the network takes
    'Ünïcödé 🦊 — 東京 and <b>tags</b> & "quotes" \\ \t tab',
    "  spaces around  ",
    "zero\u200bwidth, nul\x00 and\nlines",
    "One two three four five six seven eight nine ten. " * 4,
    "https://example.org/path?x=1 @user #tag 3,000 don't",
]


@dataclass
class Served:
    """A run that is served in this process."""

    run: Path
    client: TestClient
    service: Service

    @property
    def model(self) -> Model:
        return self.service.ready()

    def post(self, **body: Any) -> Any:
        """The response to a JSON request."""
        return self.client.post("/predict", json=body)

    def answers(self, **body: Any) -> list[dict[str, Any]]:
        response = self.post(**body)
        assert response.status_code == 200, response.text
        found: list[dict[str, Any]] = response.json()["answers"]
        return found

    def predicted(self, argument: str, value: Path) -> list[dict[str, Any]]:
        """What `predict` writes for a user's own file."""
        assert main(["predict", "--run", str(self.run), f"--data.init_args.{argument}", str(value)]) == 0
        lines = (self.run / "predictions.jsonl").read_text().splitlines()
        return [{n: v for n, v in json.loads(line).items() if n not in ("index", "row", "line")} for line in lines]


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Served]]:
    """`served(name)`: the run of a case of tests/export/cases.py, made and loaded once."""
    made: dict[str, Served] = {}
    root = tmp_path_factory.mktemp("serve")
    with ExitStack() as stack:

        def get(name: str) -> Served:
            if name not in made:
                run = make_run(name, root)
                service = Service(lambda: Model.load(run), Limits(max_wait_ms=20))
                client = stack.enter_context(TestClient(service.app, raise_server_exceptions=False))
                until(lambda: service.batcher.settled.is_set(), "the model is loaded")
                assert service.batcher.error is None, service.batcher.error
                made[name] = Served(run, client, service)
            return made[name]

        yield get


def encoded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()
