"""The HTTP application: routes, limits and errors. One sentence says why a request is not answered."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sft_lightning import __version__
from sft_lightning.core.errors import UserError
from sft_lightning.serve.answering import Model, finite
from sft_lightning.serve.batching import Answers as Answering
from sft_lightning.serve.batching import Batcher, QueueFull
from sft_lightning.serve.metrics import Metrics
from sft_lightning.serve.requests import FORM, JSON, Answers, Asked, Problem, Refused, check_type, items_of, read_body

PAGE = Path(__file__).with_name("page.html")
SECURITY = {
    "content-security-policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data: blob:; media-src blob:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
DEFAULT_BYTES = {"texts": 1 << 20, "words": 1 << 17, "images": 16 << 20, "sounds": 16 << 20}
"""Most bytes of a request, by kind of input: what is answered in a few seconds"""
HELD = 32
"""Bodies of the largest size that may be held at once"""
FORM_SCHEMA = {
    "type": "object",
    "properties": {
        "file": {"type": "array", "items": {"type": "string", "format": "binary"}},
        "head": {"type": "string", "enum": ["new", "source", "both"]},
    },
}


@dataclass(frozen=True)
class Limits:
    """Limits of a service.

    Args:
        max_batch: Most samples of a batch.
        max_wait_ms: Milliseconds that a sample waits for others.
        max_bytes: Most bytes of a request; by default 1 MiB for texts, 128 KiB for texts to tag, 16 MiB for images and sounds.
        timeout_s: Seconds until a request is given up.
        max_queue: Most samples that wait.
    """

    max_batch: int = 32
    max_wait_ms: float = 5.0
    max_bytes: int | None = None
    timeout_s: float = 30.0
    max_queue: int = 1024


class Service:
    """The application with its batcher.

    Args:
        make: Loads the model, in the worker thread.
        limits: Its limits.
        ended: Called when the worker ends, also if the model cannot be loaded.
    """

    def __init__(
        self, make: Callable[[], Model], limits: Limits | None = None, ended: Callable[[], None] = lambda: None
    ) -> None:
        self.limits = limits = limits or Limits()
        self.metrics = Metrics(lambda: self.batcher.waiting)
        observe = self.metrics.sizes.observe
        self.batcher = Batcher(make, limits.max_batch, limits.max_wait_ms / 1000, limits.max_queue, observe, ended)
        self.held = 0
        """Bytes of the requests that are being read or answered"""
        self.app = make_app(self)

    def ready(self) -> Model:
        """The model. Raises Refused before it is loaded."""
        model: Answering | None = self.batcher.model
        if model is None:
            raise Refused(503, "the model is not loaded yet")
        return model  # type: ignore[return-value]

    async def predict(self, request: Request) -> dict[str, Any]:
        """Answers a request. Raises Refused."""
        ends = time.monotonic() + self.limits.timeout_s
        kind, model = check_type(request), self.ready()
        takes = model.reader.takes
        most, size = self.limits.max_bytes or DEFAULT_BYTES.get(model.reader.kind, DEFAULT_BYTES[takes]), 0
        try:
            async with asyncio.timeout(self.limits.timeout_s):
                parts = []
                async for part in read_body(request, most):
                    size, self.held = size + len(part), self.held + len(part)
                    if self.held > HELD * most:
                        raise Refused(503, "too many requests are being read; try again")
                    parts.append(part)
            items, head = await items_of(request, kind, b"".join(parts), takes, self.limits.max_queue)
            if head != "new" and "source" not in model.tasks:
                raise Refused(422, "head: the model kept no source head, so that new is the only one")
            for item in items:
                model.reader.check(item)
            futures = [asyncio.wrap_future(one) for one in self.batcher.submit(items, source=head != "new")]
            try:
                async with asyncio.timeout(max(0.0, ends - time.monotonic())):
                    answers = await asyncio.gather(*futures)
            finally:  # those that are not answered yet are not asked
                for future in futures:
                    future.cancel()
                    future.add_done_callback(lambda done: done.cancelled() or done.exception())
        except UserError as error:
            raise Refused(422, error.problem or str(error)) from None
        except QueueFull:
            raise Refused(503, "too many samples wait; try again") from None
        except TimeoutError:
            raise Refused(504, f"the answer took more than {self.limits.timeout_s:g} s") from None
        finally:
            self.held -= size
        wanted = ("new", "source") if head == "both" else (head,)
        chosen = [{name: value for name, value in a.items() if name in (*wanted, "truncated")} for a in answers]
        if not finite(chosen):
            raise Refused(500, "an answer is not a finite number")
        return {"answers": chosen}


def make_app(service: Service) -> FastAPI:
    """The application."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        yield
        await asyncio.to_thread(service.batcher.stop)

    app = FastAPI(title="sft_lightning", version=__version__, lifespan=life, docs_url=None, redoc_url=None)
    app.add_middleware(Counted, metrics=service.metrics)
    problems: dict[int | str, dict[str, Any]] = {n: {"model": Problem} for n in (413, 415, 422, 500, 503, 504)}
    body = {JSON: {"schema": Asked.model_json_schema()}, FORM: {"schema": FORM_SCHEMA}}
    schema = {"requestBody": {"required": True, "content": body}}

    @app.post("/predict", response_model=Answers, responses=problems, openapi_extra=schema)
    async def predict(request: Request) -> Response:
        """Answers texts, images or sounds."""
        began = time.monotonic()
        try:
            return JSONResponse(await service.predict(request))
        finally:
            service.metrics.seconds.observe(time.monotonic() - began)

    @app.get("/model", responses={503: {"model": Problem}})
    async def model() -> dict[str, Any]:
        """What the model takes, its heads and their labels."""
        return service.ready().about()

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the process is alive."""
        return {"status": "alive"}

    @app.get("/ready", responses={503: {"model": Problem}})
    async def ready() -> dict[str, str]:
        """Whether the model is loaded, and has answered a first sample."""
        service.ready()
        return {"status": "ready"}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Metrics for Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers=SECURITY)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        headers = {"retry-after": "1"} if error.status == 503 else None
        return JSONResponse({"error": error.why}, error.status, headers)

    @app.exception_handler(HTTPException)
    async def of_framework(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=400)  # nobody reads it

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": "the request could not be answered"}, 500)

    return app


class Counted:
    """Counts responses by path and status; paths that do not exist count as one."""

    PATHS = ("/predict", "/model", "/health", "/ready", "/metrics", "/", "/openapi.json")

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path, status = scope["path"] if scope["path"] in self.PATHS else "other", 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            self.metrics.requests.labels(path, str(status)).inc()
