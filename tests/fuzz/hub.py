"""A Hub on this machine that answers for one model, or answers what a case tells it to."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

MODEL = "somebody/tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """`directory` holds the model; `answers` says otherwise of paths that end so.

    An answer may have a `status`, `headers` and a `body`; a body that is cut is shorter than its
    length in the headers.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.directory: Path | None = None
        self.answers: Mapping[str, Any] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        status, body, headers = self._usual(path)
        for end, own in self.server.answers.items():
            if path.endswith(end) or end == "*":
                status, headers = own.get("status", status), headers | own.get("headers", {})
                body = own["body"].encode("latin-1") if "body" in own else body
                if "cut" in own:
                    headers = {"Content-Length": str(len(body))} | headers
                    body = body[: own["cut"]]
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value.encode("latin-1", "replace").decode("latin-1"))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _usual(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        directory = self.server.directory
        asked = re.fullmatch(
            rf"/api/models/{MODEL}(?:/(revision|tree)/[^/]+)?|/{MODEL}/resolve/[^/]+/(.+)", path
        )
        if asked is None or directory is None:
            return 404, b"", {"X-Error-Code": "RepoNotFound"}
        files = sorted(file for file in directory.iterdir() if file.is_file())
        if asked[1] == "tree":
            listing = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0" * 40}
                for file in files
            ]
            return 200, json.dumps(listing).encode(), {}
        if asked[2] is None:
            siblings = [{"rfilename": file.name} for file in files]
            info = {"id": MODEL, "sha": COMMIT, "siblings": siblings}
            return 200, json.dumps(info).encode(), {}
        if asked[2] not in [file.name for file in files]:
            return 404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
        body = (directory / asked[2]).read_bytes()
        tag = hashlib.sha1(body).hexdigest()
        return 200, body, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT}

    def log_message(self, *_: object) -> None:
        """Silence."""


@contextmanager
def serving() -> Iterator[Hub]:
    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()
