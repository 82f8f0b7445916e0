"""A Hub on this machine: the few answers that downloads ask for, of directories."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ASKED = re.compile(
    r"/api/(?P<kind>models|datasets)/(?P<id>[^/]+/[^/]+)"
    r"(/(?P<what>revision|tree)/(?P<revision>[^/]+)(/(?P<under>.+))?)?"
    r"|/(?P<of>datasets/)?(?P<its>[^/]+/[^/]+)/resolve/(?P<at>[^/]+)/(?P<file>.+)"
)


@dataclass
class Repository:
    """A model or a dataset. Each of its commits is a directory."""

    commits: dict[str, Path]
    revisions: Mapping[str, str]
    pushes: Iterator[str] = iter(())
    """What `main` is to be after each request."""

    @classmethod
    def of(cls, directory: Path) -> "Repository":
        return cls({COMMIT: directory}, {"main": COMMIT})

    def commit(self, revision: str) -> str | None:
        """As Git does, the hash of a commit is one of its names."""
        try:
            return revision if revision in self.commits else self.revisions[revision]
        except KeyError:
            return None

    def files(self, commit: str = COMMIT) -> dict[str, Path]:
        directory = self.commits[commit]
        paths = (path for path in directory.rglob("*") if path.is_file())
        return {str(path.relative_to(directory)): path for path in sorted(paths)}


@dataclass
class Answer:
    content: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def no(cls, error: str, headers: Mapping[str, str] = {}) -> "Answer":
        return cls(status=404, headers={"X-Error-Code": error, **headers})


class Hub(ThreadingHTTPServer):
    """`models` and `datasets` are by their ids.

    `answers` says otherwise of paths that end so: an answer may have a `status`, `headers` and a
    `body`; a body that is `cut` is shorter than its length in the headers.
    """

    daemon_threads = True

    def __init__(
        self, models: Mapping[str, Repository] = {}, datasets: Mapping[str, Repository] = {}
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = {"models": models, "datasets": datasets}
        self.answers: Mapping[str, Any] = {}
        self.downloaded: list[str] = []
        self.breaks_off: set[str] = set()
        """Files of which the first answer ends early; the next says the rest."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def usual(self, path: str) -> Answer:
        asked = ASKED.fullmatch(path)
        if asked is None:
            return Answer.no("RepoNotFound")
        kind = asked["kind"] or ("datasets" if asked["of"] else "models")
        name = asked["id"] or asked["its"]
        try:
            repository = self.repositories[kind][name]
        except KeyError:
            return Answer.no("RepoNotFound")
        commit = repository.commit(asked["revision"] or asked["at"] or "main")
        for main in islice(repository.pushes, 1):
            repository.revisions = {**repository.revisions, "main": main}
        if commit is None:
            return Answer.no("RevisionNotFound")
        of_commit = {"X-Repo-Commit": commit}
        files = repository.files(commit)
        if asked["under"] and not any(file.startswith(f"{asked['under']}/") for file in files):
            return Answer.no("EntryNotFound", of_commit)
        if asked["what"] == "tree":
            content = json.dumps([_listing(*file) for file in files.items()]).encode()
        elif asked["file"] is None:
            siblings = [{"rfilename": file} for file in files]
            content = json.dumps({"id": name, "sha": commit, "siblings": siblings}).encode()
        elif asked["file"] in files:
            content = files[asked["file"]].read_bytes()
        else:
            return Answer.no("EntryNotFound", of_commit)
        tag = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        return Answer(content, headers=of_commit | tag)


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
        answer = self.server.usual(path)
        for end, own in self.server.answers.items():
            if path.endswith(end) or end == "*":
                answer.status = own.get("status", answer.status)
                answer.headers |= own.get("headers", {})
                if "body" in own:
                    answer.content = own["body"].encode("latin-1")
                if "cut" in own:
                    answer.headers.setdefault("Content-Length", str(len(answer.content)))
                    answer.content = answer.content[: own["cut"]]
        file = path.partition("/resolve/")[2].partition("/")[2]
        if file and answer.status == 200 and self.command == "GET":
            self.server.downloaded.append(file)
            self._go_on(answer)
            if file in self.server.breaks_off:
                self.server.breaks_off.remove(file)
                answer.headers["Content-Length"] = str(len(answer.content))
                answer.content = answer.content[: len(answer.content) // 2]
        self._send(answer)

    def _go_on(self, answer: Answer) -> None:
        """From where the reader has what came before."""
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if start:
            answer.status = 206
            answer.content = answer.content[start:]

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        length = {"Content-Length": str(len(answer.content))}
        for name, value in (length | answer.headers).items():
            self.send_header(name, value.encode("latin-1", "replace").decode("latin-1"))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.content)

    def log_message(self, *_: object) -> None:
        """Silence."""


def _listing(file: str, path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    oid = hashlib.sha1(content).hexdigest()
    return {"type": "file", "path": file, "size": len(content), "oid": oid}


@contextmanager
def serving(
    models: Mapping[str, Repository] = {}, datasets: Mapping[str, Repository] = {}
) -> Iterator[Hub]:
    with Hub(models, datasets) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()


def only(endpoint: str, cache: Path) -> dict[str, str]:
    """The environment of a program that knows no other Hub."""
    return {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }
