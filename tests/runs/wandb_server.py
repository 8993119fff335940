"""A stand-in for the W&B server: it keeps what clients send. Its answers are made up; it merges and checks nothing."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WandbServer:
    """What arrived.

    `runs` has the variables of each UpsertBucket by run id (config parsed), `history` the rows by run id, `operations`
    the names of all GraphQL operations, `files` the names uploaded.
    """

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.history: dict[str, dict[int, dict[str, Any]]] = {}
        self.operations: list[str] = []
        self.files: dict[str, bytes] = {}
        self.url = ""

    def answer(self, query: dict[str, Any]) -> dict[str, Any]:
        """GraphQL's data for an operation; an error for those that a run ends well without."""
        name, given = query["operationName"], query.get("variables") or {}
        self.operations.append(name)
        entity = {"id": "e", "name": "somebody"}
        if name == "Viewer":
            teams: dict[str, Any] = {"edges": []}
            return {"viewer": {"id": "v", "entity": "somebody", "username": "somebody", "flags": "{}", "teams": teams}}
        if name == "ServerFeaturesQuery":
            return {"serverInfo": {"features": []}}
        if name == "RunResumeStatus":
            return {"model": {"id": "p", "name": "project", "entity": entity, "bucket": None}}
        if name == "UpsertBucket":
            sent = {k: v for k, v in given.items() if v is not None}
            if "config" in sent:
                sent["config"] = {k: v["value"] for k, v in json.loads(sent["config"]).items()}
            self.runs.setdefault(given["name"], {}).update(sent)
            project = {"id": "p", "name": given.get("project") or "project", "entity": entity}
            about = {"id": "b", "name": given["name"], "displayName": given["name"], "config": "{}", "project": project}
            return {"upsertBucket": {"bucket": about, "inserted": True}}
        if name == "CreateRunFiles":
            files = [{"name": n, "uploadUrl": f"{self.url}/upload/{n}"} for n in given["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        raise LookupError(name)

    def stream(self, run_id: str, sent: dict[str, Any]) -> None:
        """Rows by their offset, so that what is sent twice counts once."""
        part = (sent.get("files") or {}).get("wandb-history.jsonl")
        for i, line in enumerate(part["content"] if part else []):
            self.history.setdefault(run_id, {})[part["offset"] + i] = json.loads(line)

    def rows(self, run_id: str) -> list[dict[str, Any]]:
        """The history of a run."""
        return [row for _, row in sorted(self.history.get(run_id, {}).items())]


def handler(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                content = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    content += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return gzip.decompress(content) if self.headers.get("Content-Encoding") == "gzip" else content

        def do_POST(self) -> None:
            content, answer = self.body(), {}
            if self.path == "/graphql":
                try:
                    answer = {"data": server.answer(json.loads(content))}
                except LookupError as error:
                    answer = {"data": None, "errors": [{"message": f"the stand-in does not know {error}"}]}
            elif self.path.endswith("/file_stream"):
                server.stream(self.path.split("/")[-2], json.loads(content))
            reply = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def do_PUT(self) -> None:
            server.files[self.path.partition("/upload/")[2]] = self.body()
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    return Handler


@contextmanager
def serve() -> Iterator[WandbServer]:
    """A stand-in on a free port."""
    server = WandbServer()
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler(server))
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
