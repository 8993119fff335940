"""Bad requests get a status and one sentence, and spoil no other's answer."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from sft_lightning.serve.answering import Model
from sft_lightning.serve.app import Limits, Service
from tests.serve.conftest import Served
from tests.serve.waiting import until

Serve = Callable[[str], Served]
JSON = {"content-type": "application/json"}
BAD: list[tuple[int, str, bytes, dict[str, str]]] = [
    (422, "", b"", JSON),
    (422, "", b"{", JSON),
    (422, "", b"null", JSON),
    (422, "", b"[" * 100_000, JSON),
    (422, "", b'{"texts": "a text"}', JSON),
    (422, "no texts", b"{}", JSON),
    (422, "no texts", b'{"texts": []}', JSON),
    (422, "texts.1", b'{"texts": ["a", 7]}', JSON),
    (422, "textes", b'{"textes": ["a"]}', JSON),
    (422, "texts[0]: text is empty", b'{"texts": ["  "]}', JSON),
    (422, "", b'{"texts": ["\\ud800"]}', JSON),
    (422, "", b'{"texts": ["\xff"]}', JSON),
    (422, "a a a", json.dumps({"a " * 9999: 1}).encode(), JSON),
    (422, "head", b'{"texts": ["a"], "head": "old"}', JSON),
    (422, "takes texts", b'{"images": ["aGVsbG8="]}', JSON),
    (422, "words", b'{"texts": [{"words": ["a"]}]}', JSON),
    (422, "pair", b'{"texts": [{"text": "a", "pair": "b"}]}', JSON),
    (422, "up to 1024", json.dumps({"texts": ["a"] * 1025}).encode(), JSON),
    (413, "at most 1048576", b" " * (1 << 20) + b"{}", JSON),
    (415, "text/plain", b"a text", {"content-type": "text/plain"}),
    (415, "missing", b"a text", {}),
    (415, "gzip", b"a text", {**JSON, "content-encoding": "gzip"}),
    (422, "form", b"--x", {"content-type": "multipart/form-data; boundary=y"}),
    (422, "form", b"--x", {"content-type": "multipart/form-data"}),
]


@pytest.mark.parametrize(("status", "why", "body", "headers"), BAD)
def test_a_bad_request_gets_one_sentence(
    status: int, why: str, body: bytes, headers: dict[str, str], served: Serve
) -> None:
    response = served("classification-bert").client.post("/predict", content=body, headers=headers)
    said = response.json()
    assert response.status_code == status, said
    assert list(said) == ["error"] and "\n" not in said["error"] and 0 < len(said["error"]) <= 300
    assert why in said["error"]


def png(width: int, height: int) -> bytes:
    from io import BytesIO

    from PIL import Image

    held = BytesIO()
    Image.new("L", (width, height)).save(held, "PNG")
    return held.getvalue()


@pytest.mark.parametrize(
    ("held", "why"),
    [
        (b"", "empty"),
        (b"no image", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (png(64, 64)[:50], "cannot be read"),
        (png(1, 65_000), "after its shorter side is resized"),
        (png(9_000, 9_000), "pixels, and at most"),
    ],
    ids=["empty", "text", "a program", "cut off", "so narrow that resizing fills the memory", "too large"],
)
def test_an_image_that_cannot_be_used_is_refused(held: bytes, why: str, served: Serve) -> None:
    one = served("classification-vit-photos")
    response = one.client.post("/predict", files=[("file", png(40, 40)), ("file", held)])
    assert response.status_code == 422 and why in response.json()["error"] and "file[1]" in response.json()["error"]
    assert one.post(images=["no base64!"]).json()["error"] == "images[0] is not base64"
    assert one.post(texts=["a text"]).status_code == 422


def test_health_readiness_schema_and_metrics(served: Serve) -> None:
    one = served("classification-bert")
    assert one.client.get("/health").json() == {"status": "alive"}
    assert one.client.get("/ready").json() == {"status": "ready"}
    assert one.client.get("/nothing").status_code == 404 and one.client.get("/predict").status_code == 405
    schema = one.client.get("/openapi.json").json()
    assert set(schema["paths"]["/predict"]["post"]["requestBody"]["content"]) == {
        "application/json",
        "multipart/form-data",
    }
    one.answers(texts=["a", "b"])
    one.post(texts=[])
    said = one.client.get("/metrics").text
    for line in ('sft_requests_total{path="/predict",status="200"}', 'status="422"', 'path="other",status="404"'):
        assert line in said
    assert "sft_request_seconds_bucket" in said and "sft_batch_size_sum" in said
    page = one.client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]


class Held(Model):
    """A model that answers when it may."""

    def answer(self, items: Any, source: bool = True) -> Any:
        gate: threading.Event = getattr(self, "gate", threading.Event())
        if hasattr(self, "gate"):
            gate.wait(20)
        if any(item.text == "poison" for item in items):
            raise RuntimeError("cannot be answered")
        return super().answer(items, source)


def test_a_full_queue_a_slow_answer_and_a_failing_one(served: Serve) -> None:
    one = served("classification-bert")
    gate = threading.Event()

    def make() -> Model:
        model = Held.load(one.run)
        assert isinstance(model, Held)
        return model

    service = Service(make, patient := Limits(max_batch=4, timeout_s=20, max_queue=4, max_wait_ms=50))
    with TestClient(service.app, raise_server_exceptions=False) as client:
        assert client.get("/health").status_code == 200
        until(service.batcher.settled.is_set, "the model is loaded")
        texts = ["a", "poison", "b"]
        found: dict[str, Any] = {}

        def ask(text: str) -> None:
            found[text] = client.post("/predict", json={"texts": [text]})

        threads = [threading.Thread(target=ask, args=(text,)) for text in texts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [found[text].status_code for text in texts] == [200, 500, 200]
        assert found["poison"].json() == {"error": "the request could not be answered"}
        service.ready().gate = gate  # type: ignore[attr-defined]
        service.limits = replace(patient, timeout_s=0.3)
        assert client.post("/predict", json={"texts": ["a"]}).status_code == 504
        assert client.post("/predict", json={"texts": ["a"] * 4}).status_code == 504
        full = client.post("/predict", json={"texts": ["a"] * 4})
        assert full.status_code == 503 and full.headers["retry-after"] == "1"
        gate.set()
        until(lambda: service.batcher.waiting == 0, "the queue is empty")
        service.limits = patient
        assert client.post("/predict", json={"texts": ["a"]}).status_code == 200
        assert service.held == 0


def test_a_model_that_is_not_loaded_yet_is_not_ready(served: Serve) -> None:
    gate = threading.Event()

    def make() -> Model:
        gate.wait(20)
        return Model.load(served("classification-bert").run)

    service = Service(make)
    with TestClient(service.app) as client:
        assert client.get("/health").status_code == 200
        for response in (client.get("/ready"), client.post("/predict", json={"texts": ["a"]}), client.get("/model")):
            assert response.status_code == 503
        gate.set()
        until(service.batcher.settled.is_set, "the model is loaded")
        assert client.get("/ready").status_code == 200
