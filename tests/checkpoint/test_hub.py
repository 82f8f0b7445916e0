"""Hub ids are downloaded, from a real server on this machine; the cache serves without one."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle, islice
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from transformers import GPTNeoXForCausalLM

from neox_eqx.checkpoint.origin import OriginOptions
from neox_eqx.errors import InputError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = "somebody/tiny-neox"


class Hub(ThreadingHTTPServer):
    """The few answers of the Hub that a download asks for, for one model.

    Each of its commits is a directory. `pushes` are what `main` is to be after each request.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.directory = directory
        self.commits = {COMMIT: directory}
        self.revisions = {"main": COMMIT}
        self.pushes: Iterator[str] = iter(())
        self.downloaded: list[str] = []
        self.breaks_off: set[str] = set()
        """Files of which the first answer ends early; the next says the rest."""

    def commit(self, revision: str) -> str | None:
        """As Git does, the hash of a commit is one of its names."""
        return revision if revision in self.commits else self.revisions.get(revision)

    def files(self, commit: str = COMMIT) -> list[str]:
        directory = self.commits[commit]
        paths = (path for path in directory.rglob("*") if path.is_file())
        return sorted(str(path.relative_to(directory)) for path in paths)


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        asked = re.fullmatch(
            rf"/api/models/{MODEL}(?:/(?P<kind>revision|tree)/(?P<revision>[^/]+))?"
            rf"|/{MODEL}/resolve/(?P<at>[^/]+)/(?P<file>.+)",
            path,
        )
        if asked is None:
            return self.send(b"", 404, "RepoNotFound")
        commit = self.server.commit(asked["revision"] or asked["at"] or "main")
        for main in islice(self.server.pushes, 1):
            self.server.revisions["main"] = main
        if commit is None:
            return self.send(b"", 404, "RevisionNotFound")
        files, directory = self.server.files(commit), self.server.commits[commit]
        if asked["kind"] == "tree":
            listing = [self.listing(directory, file) for file in files]
            return self.send(json.dumps(listing).encode(), commit=commit)
        if asked["file"] is None:
            siblings = [{"rfilename": file} for file in files]
            info = {"id": MODEL, "sha": commit, "siblings": siblings}
            return self.send(json.dumps(info).encode(), commit=commit)
        if asked["file"] not in files:
            return self.send(b"", 404, "EntryNotFound", commit)
        if self.command == "GET":
            self.server.downloaded.append(asked["file"])
        content = (directory / asked["file"]).read_bytes()
        if self.command == "GET" and asked["file"] in self.server.breaks_off:
            self.server.breaks_off.remove(asked["file"])
            return self.send(content, commit=commit, sent=len(content) // 2)
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.send(content, 206 if start else 200, commit=commit, start=start)

    def listing(self, directory: Path, file: str) -> dict:
        content = (directory / file).read_bytes()
        oid = hashlib.sha1(content).hexdigest()
        return {"type": "file", "path": file, "size": len(content), "oid": oid}

    def send(
        self,
        content: bytes,
        status: int = 200,
        error: str = "",
        commit: str = COMMIT,
        *,
        start: int = 0,
        sent: int | None = None,
    ) -> None:
        """The content from `start` on, of which `sent` bytes go out."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[start:sent])

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
    (line,) = resolve_each([source], endpoint, cache, **environment)
    return line


def resolve_each(
    sources: Sequence[str], endpoint: str, cache: Path, **environment: str
) -> list[str]:
    """The same of several, one after the other."""
    code = """if True:
        import sys
        from neox_eqx.checkpoint.hub import resolve
        from neox_eqx.errors import InputError
        for source in sys.argv[1:]:
            try:
                print(resolve(source).directory)
            except InputError as error:
                print("refused:", error)
    """
    return outputs(code, sources, endpoint, cache, **environment)


def outputs(
    code: str, arguments: Sequence[str], endpoint: str, cache: Path, **environment: str
) -> list[str]:
    """What a program prints that knows only this endpoint."""
    settings = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    process = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **settings, **environment},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert process.returncode == 0, process.stderr
    assert not process.stderr  # a bar is for a terminal
    return process.stdout.splitlines()


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
    template = "additional_chat_templates/tool.jinja"
    (hub.directory / template).parent.mkdir()
    (hub.directory / template).write_text("{{ messages }}")
    directory = resolve(MODEL, endpoint(hub), tmp_path / "cache")
    wanted = ["config.json", "model.safetensors", "spiece.model", "tokenizer.json"]
    wanted += ["generation_config.json"] if "generation_config.json" in hub.files() else []
    wanted += [template]
    there = [str(path.relative_to(directory)) for path in Path(directory).rglob("*.*")]
    assert sorted(hub.downloaded) == sorted(wanted) == sorted(there)
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
    assert shards == sorted(file for file in hub.files() if "-of-" in file)
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


def add_commit(hub: Hub, directory: Path, what: str) -> str:
    """Another commit, whose files all differ from those of the first."""
    commit = hashlib.sha1(what.encode()).hexdigest()
    shutil.copytree(hub.directory, directory)
    for path in directory.iterdir():
        path.write_text(f"{path.name} of {what}")
    hub.commits[commit] = directory
    return commit


def test_a_revision_is_read_and_found_again_without_network(hub: Hub, tmp_path: Path) -> None:
    early = add_commit(hub, tmp_path / "early", "step 3000")
    hub.revisions["step3000"] = early
    cache, names = tmp_path / "cache", [f"{MODEL}@step3000", MODEL, f"{MODEL}@{early}"]
    step, newest, by_hash = resolve_each(names, endpoint(hub), cache)
    assert step == by_hash != newest
    assert Path(step).name == early and Path(newest).name == COMMIT
    for file in hub.files():
        assert (Path(step) / file).read_text() == f"{file} of step 3000"
    assert resolve_each(names, NOBODY, cache) == [step, newest, by_hash]


def test_an_adapter_is_downloaded_with_its_own_weights(hub: Hub, tmp_path: Path) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors", "tokenizer.json"):
        (hub.directory / name).write_text(f"this is {name}")
    for name in ("config.json", "generation_config.json"):
        (hub.directory / name).unlink(missing_ok=True)
    directory = resolve(MODEL, endpoint(hub), tmp_path / "cache")
    wanted = ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"]
    assert sorted(os.listdir(directory)) == sorted(hub.downloaded) == wanted
    assert resolve(MODEL, NOBODY, tmp_path / "cache") == directory


def test_an_adapter_with_a_config_of_its_own_is_one_for_a_plan_too(
    hub: Hub, tmp_path: Path
) -> None:
    (hub.directory / "adapter_config.json").write_text("{}")
    code = """if True:
        import sys
        from neox_eqx.checkpoint.hub import resolve
        print(resolve(sys.argv[1], wanted="config").directory)
    """
    (directory,) = outputs(code, [MODEL], endpoint(hub), tmp_path / "cache")
    assert sorted(os.listdir(directory)) == ["adapter_config.json", "config.json"]


def test_a_conversion_certifies_the_commit(hub: Hub, tmp_path: Path) -> None:
    hub.revisions["step3000"] = COMMIT
    code = """if True:
        import sys
        from neox_eqx.convert.convert import convert
        how = dict(to="native", verify=False, revision="step3000")
        print(convert(sys.argv[1], sys.argv[2], **how)["source"]["commit"])
    """
    arguments = [MODEL, str(tmp_path / "native")]
    assert outputs(code, arguments, endpoint(hub), tmp_path / "cache") == [COMMIT]


def test_a_push_between_two_requests_mixes_nothing(hub: Hub, tmp_path: Path) -> None:
    other = add_commit(hub, tmp_path / "other", "another commit")
    hub.pushes = cycle([other, COMMIT])
    cache = Path(resolve(MODEL, endpoint(hub), tmp_path / "cache"))
    for file in hub.files():
        assert (cache / file).read_bytes() == (hub.commits[cache.name] / file).read_bytes()


def test_a_revision_that_is_not_there_is_told_apart(hub: Hub, tmp_path: Path) -> None:
    sources = [f"{MODEL}@step7", f"{MODEL}@"]
    unknown, empty = resolve_each(sources, endpoint(hub), tmp_path / "cache")
    assert unknown.startswith(f"refused: {MODEL}: has no revision 'step7'; its branches and tags")
    assert empty.startswith(f"refused: {MODEL}@: names no revision after the @")
    message = resolve(f"{MODEL}@step7", NOBODY, tmp_path / "cache")
    assert message.startswith(f"refused: {MODEL}: the Hub did not give it at revision 'step7' (")


def test_a_download_that_breaks_off_goes_on_and_says_nothing(hub: Hub, tmp_path: Path) -> None:
    hub.breaks_off = {"model.safetensors"}
    directory = resolve(MODEL, endpoint(hub), tmp_path / "cache")
    for name in ("config.json", "model.safetensors"):
        assert Path(directory, name).read_bytes() == (hub.directory / name).read_bytes()


def test_model_that_does_not_exist_is_told_apart_from_no_network(hub: Hub, tmp_path: Path) -> None:
    message = resolve("somebody/else", endpoint(hub), tmp_path / "cache")
    assert message.startswith("refused: somebody/else: no such directory, and no such model")


def test_model_without_weights_is_refused(hub: Hub, tmp_path: Path) -> None:
    (hub.directory / "model.safetensors").unlink()
    message = resolve(MODEL, endpoint(hub), tmp_path / "cache")
    assert message.startswith(f"refused: {MODEL}: has no weights; expected one of model.safetens")
    assert hub.downloaded == ["config.json"]


def test_where_a_model_is_says_nothing_beside_what_is_none() -> None:
    OriginOptions().check_unused("--preset")
    for name in ("revision", "base"):
        with pytest.raises(InputError, match=f"^--{name} says where .* --preset names none"):
            OriginOptions(**{name: "main"}).check_unused("--preset")
