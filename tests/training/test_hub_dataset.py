"""Datasets by their Hub id, from a real server on this machine."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
DATASET = "somebody/alpaca"
FILES = {
    "README.md": b"---\nlicense: mit\n---\n",
    "train.jsonl": b'{"instruction": "a", "input": "", "output": "b"}\n',
    "test.jsonl": b'{"instruction": "c", "input": "d", "output": "e"}\n',
}


class Handler(BaseHTTPRequestHandler):
    """The few answers of the Hub that loading asks for, for one dataset."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = unquote(self.path.partition("?")[0])
        if path in (f"/api/datasets/{DATASET}", f"/api/datasets/{DATASET}/revision/{COMMIT}"):
            siblings = [{"rfilename": file} for file in FILES]
            self.send(json.dumps({"id": DATASET, "sha": COMMIT, "siblings": siblings}).encode())
        elif path == f"/api/datasets/{DATASET}/tree/{COMMIT}":
            self.send(json.dumps([listing(file) for file in FILES]).encode())
        elif path.startswith(f"/datasets/{DATASET}/resolve/") and path.split("/", 6)[6] in FILES:
            self.send(FILES[path.split("/", 6)[6]])
        else:
            missing = "EntryNotFound" if f"/{DATASET}/" in path else "RepoNotFound"
            self.send(b"", 404, missing)

    def send(self, content: bytes, status: int = 200, error: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Silence."""


def listing(file: str) -> dict:
    oid = hashlib.sha1(FILES[file]).hexdigest()
    return {"type": "file", "path": file, "size": len(FILES[file]), "oid": oid}


@pytest.fixture
def endpoint() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_dataset_is_read_by_its_id_and_split(endpoint: str, tmp_path: Path) -> None:
    code = """if True:
        import sys
        from pathlib import Path
        from neox_eqx.errors import InputError
        from neox_eqx.training.examples import read_examples
        for source in sys.argv[1:]:
            try:
                print([message["content"] for message in read_examples(Path(source))[0].messages])
            except InputError as error:
                print("refused:", error)
    """
    settings = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": str(ROOT),
    }
    sources = (f"{DATASET}:train", f"{DATASET}:test", DATASET, "somebody/none:train")
    process = subprocess.run(
        [sys.executable, "-c", code, *sources],
        env={**os.environ, **settings},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == [
        "['a', 'b']",
        "['c', 'e']",
        f"refused: {DATASET}: holds several splits; name one of {DATASET}:train, {DATASET}:test",
        "refused: somebody/none:train: is no dataset that can be loaded: Dataset 'somebody/none' "
        "doesn't exist on the Hub or cannot be accessed",
    ]
