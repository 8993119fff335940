"""A stand-in for the hub: repositories in memory, by the requests that huggingface_hub sends. It does not stand in for large
files' own storage, permissions and pages.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "x" * 34
COMMIT = "c" * 40


class Hub:
    """What the stand-in was told.

    Args:
        refuses: Status with which it answers commits; 0 to accept them.
    """

    def __init__(self, refuses: int = 0) -> None:
        self.refuses = refuses
        self.made: list[dict[str, Any]] = []
        self.files: dict[str, dict[str, bytes]] = {}
        self.tokens: set[str] = set()
        self.address = ""


@contextmanager
def hub(refuses: int = 0) -> Iterator[Hub]:
    """Runs a stand-in."""
    told = Hub(refuses)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None: ...

        def answer(self, content: Any, status: int = 200, **headers: str) -> None:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"content-length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            told.tokens.add(self.headers.get("authorization", ""))
            path = self.path.partition("?")[0]
            if path == "/api/repos/create":
                told.made.append(json.loads(body))
                made = json.loads(body)
                name = "/".join(part for part in (made.get("organization"), made["name"]) if part)
                self.answer({"url": f"{told.address}/{name}"})
            elif path == "/api/validate-yaml":
                self.answer({"errors": [], "warnings": []})
            elif path.endswith("/preupload/main"):
                asked = [file["path"] for file in json.loads(body)["files"]]
                self.answer({"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in asked]})
            elif path.endswith("/commit/main") and told.refuses:
                self.answer({"error": f"no, not with {self.headers.get('authorization')}"}, told.refuses)
            elif path.endswith("/commit/main"):
                name = path.removeprefix("/api/models/").removesuffix("/commit/main")
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        value = line["value"]
                        told.files.setdefault(name, {})[value["path"]] = base64.b64decode(value["content"])
                self.answer(
                    {"commitUrl": f"{told.address}/{name}/commit/{COMMIT}", "commitOid": COMMIT, "success": True}
                )
            else:
                self.answer({"error": f"unknown: {path}"}, 404)

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            for name, files in told.files.items():
                if path.startswith(f"/api/models/{name}/tree"):
                    about = [(f, len(data), hashlib.sha1(data).hexdigest()) for f, data in files.items()]
                    self.answer([{"type": "file", "path": f, "size": size, "oid": oid} for f, size, oid in about])
                    return
                if path.startswith(f"/api/models/{name}"):
                    self.answer({"id": name, "sha": COMMIT, "siblings": [{"rfilename": f} for f in files]})
                    return
                file = path.removeprefix(f"/{name}/resolve/{COMMIT}/")
                if file in files:
                    etag = f'"{hashlib.sha1(files[file]).hexdigest()}"'
                    self.answer(files[file], etag=etag, x_repo_commit=COMMIT)
                    return
            self.answer({"error": "Repository not found"}, 404, x_error_code="RepoNotFound")

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
