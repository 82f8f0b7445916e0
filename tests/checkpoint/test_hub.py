"""Hub ids are downloaded, from a real server on this machine; the cache serves without one."""

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
from transformers import GPTNeoXForCausalLM

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = "somebody/tiny-neox"


class Hub(ThreadingHTTPServer):
    """The few answers of the Hub that a download asks for, for one model in a directory."""

    def __init__(self, directory: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.directory = directory
        self.downloaded: list[str] = []

    @property
    def files(self) -> list[str]:
        paths = (path for path in self.directory.rglob("*") if path.is_file())
        return sorted(str(path.relative_to(self.directory)) for path in paths)


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = unquote(self.path.partition("?")[0])
        if path in (f"/api/models/{MODEL}", f"/api/models/{MODEL}/revision/main"):
            siblings = [{"rfilename": file} for file in self.server.files]
            self.send(json.dumps({"id": MODEL, "sha": COMMIT, "siblings": siblings}).encode())
        elif path == f"/api/models/{MODEL}/tree/{COMMIT}":
            self.send(json.dumps([self.listing(file) for file in self.server.files]).encode())
        elif path.startswith(f"/{MODEL}/resolve/") and path.split("/", 5)[5] in self.server.files:
            file = path.split("/", 5)[5]
            if self.command == "GET":
                self.server.downloaded.append(file)
            self.send((self.server.directory / file).read_bytes())
        else:
            self.send(b"", 404, "RepoNotFound")

    def listing(self, file: str) -> dict:
        content = (self.server.directory / file).read_bytes()
        oid = hashlib.sha1(content).hexdigest()
        return {"type": "file", "path": file, "size": len(content), "oid": oid}

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


@pytest.fixture
def hub(checkpoint: Path) -> Iterator[Hub]:
    with Hub(checkpoint) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def resolve(source: str, endpoint: str, cache: Path, **environment: str) -> str:
    """What `resolve` returns or refuses with, in a process that knows only this endpoint."""
    code = """if True:
        import sys
        from neox_eqx.checkpoint.hub import resolve
        from neox_eqx.errors import InputError
        try:
            print(resolve(sys.argv[1]).directory)
        except InputError as error:
            print("refused:", error)
    """
    settings = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    process = subprocess.run(
        [sys.executable, "-c", code, source],
        env={**os.environ, **settings, **environment},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert process.returncode == 0, process.stderr
    (line,) = process.stdout.splitlines()
    return line


def endpoint(hub: Hub) -> str:
    return f"http://127.0.0.1:{hub.server_address[1]}"


NOBODY = "http://127.0.0.1:9"


def test_download_takes_what_is_needed_and_later_does_without_network(
    hub: Hub, tmp_path: Path
) -> None:
    for extra in ("pytorch_model.bin", "README.md", "tokenizer.json", "spiece.model", "x.onnx"):
        (hub.directory / extra).write_text(f"this is {extra}")
    (hub.directory / "onnx").mkdir()
    (hub.directory / "onnx" / "spiece.model").write_text("not at the top")
    directory = resolve(MODEL, endpoint(hub), tmp_path / "cache")
    wanted = ["config.json", "model.safetensors", "spiece.model", "tokenizer.json"]
    wanted += ["generation_config.json"] if "generation_config.json" in hub.files else []
    assert sorted(hub.downloaded) == sorted(wanted) == sorted(os.listdir(directory))
    for file in wanted:
        assert (Path(directory) / file).read_bytes() == (hub.directory / file).read_bytes()
    assert resolve(MODEL, NOBODY, tmp_path / "cache") == directory
    assert resolve(MODEL, NOBODY, tmp_path / "cache", HF_HUB_OFFLINE="1") == directory


def test_shards_are_downloaded_by_the_index_and_a_lost_one_is_named(
    hub: Hub, theirs: GPTNeoXForCausalLM, tmp_path: Path
) -> None:
    (hub.directory / "model.safetensors").unlink()
    theirs.save_pretrained(hub.directory, max_shard_size="100KB")
    (hub.directory / "model-extra.safetensors").write_text("not in the index")
    directory = Path(resolve(MODEL, endpoint(hub), tmp_path / "cache"))
    shards = sorted(path.name for path in directory.glob("*.safetensors"))
    assert len(shards) > 1
    assert shards == sorted(file for file in hub.files if "-of-" in file)
    (directory / shards[0]).unlink()
    message = resolve(MODEL, NOBODY, tmp_path / "cache")
    assert message.startswith(f"refused: {MODEL}: the Hub did not give it (ConnectError: ")
    assert f"the local cache lacks {shards[0]}; run this once with network" in message


def test_names_are_no_patterns(hub: Hub, tmp_path: Path) -> None:
    (hub.directory / "model.safetensors").unlink()
    index = {"weight_map": {"a": "*.safetensors", "b": "[ab].safetensors"}}
    (hub.directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (hub.directory / "a.safetensors").write_text("not in the index")
    (hub.directory / "[ab].safetensors").write_text("in the index")
    resolve(MODEL, endpoint(hub), tmp_path / "cache")
    shards = [file for file in hub.downloaded if file.endswith(".safetensors")]
    assert shards == ["[ab].safetensors"]


def test_without_network_and_cache_the_missing_files_are_named(tmp_path: Path) -> None:
    message = resolve(MODEL, NOBODY, tmp_path / "cache")
    assert message.startswith(f"refused: {MODEL}: the Hub did not give it (ConnectError: ")
    assert "cache lacks config.json, weights (model.safetensors or " in message
    assert "run this once with network, or give a directory that holds these files" in message


def test_model_that_does_not_exist_is_told_apart_from_no_network(hub: Hub, tmp_path: Path) -> None:
    message = resolve("somebody/else", endpoint(hub), tmp_path / "cache")
    assert message.startswith("refused: somebody/else: no such directory, and no such model")


def test_model_without_weights_is_refused(hub: Hub, tmp_path: Path) -> None:
    (hub.directory / "model.safetensors").unlink()
    message = resolve(MODEL, endpoint(hub), tmp_path / "cache")
    assert message.startswith(f"refused: {MODEL}: has no weights; expected one of model.safetens")
    assert hub.downloaded == ["config.json"]
