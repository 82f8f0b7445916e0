"""Hub ids are downloaded, from a real server on this machine; the cache serves without one."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path

import pytest
from transformers import GPTNeoXForCausalLM

from neox_eqx.checkpoint import hub as hub_module
from neox_eqx.checkpoint.origin import OriginOptions
from neox_eqx.errors import InputError
from tests.hub import COMMIT, Hub, Repository, only, serving

MODEL = "somebody/tiny-neox"


@pytest.fixture
def model(checkpoint: Path) -> Repository:
    return Repository.of(checkpoint)


@pytest.fixture
def hub(model: Repository) -> Iterator[Hub]:
    with serving({MODEL: model}) as hub:
        yield hub


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
    settings = {**only(endpoint, cache), "PYTHONPATH": str(Path(__file__).parents[2])}
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


NOBODY = "http://127.0.0.1:9"


def test_download_takes_what_is_needed_and_later_does_without_network(
    hub: Hub, model: Repository, checkpoint: Path, tmp_path: Path
) -> None:
    for extra in ("pytorch_model.bin", "README.md", "tokenizer.json", "spiece.model", "x.onnx"):
        (checkpoint / extra).write_text(f"this is {extra}")
    (checkpoint / "onnx").mkdir()
    (checkpoint / "onnx" / "spiece.model").write_text("not at the top")
    template = "additional_chat_templates/tool.jinja"
    (checkpoint / template).parent.mkdir()
    (checkpoint / template).write_text("{{ messages }}")
    directory = resolve(MODEL, hub.address, tmp_path / "cache")
    wanted = ["config.json", "model.safetensors", "spiece.model", "tokenizer.json"]
    wanted += ["generation_config.json"] if "generation_config.json" in model.files() else []
    wanted += [template]
    there = [str(path.relative_to(directory)) for path in Path(directory).rglob("*.*")]
    assert sorted(hub.downloaded) == sorted(wanted) == sorted(there)
    for file in wanted:
        assert (Path(directory) / file).read_bytes() == (checkpoint / file).read_bytes()
    assert resolve(MODEL, NOBODY, tmp_path / "cache") == directory
    assert resolve(MODEL, NOBODY, tmp_path / "cache", HF_HUB_OFFLINE="1") == directory


def test_shards_are_downloaded_by_the_index_and_a_lost_one_is_named(
    hub: Hub, model: Repository, checkpoint: Path, theirs: GPTNeoXForCausalLM, tmp_path: Path
) -> None:
    (checkpoint / "model.safetensors").unlink()
    theirs.save_pretrained(checkpoint, max_shard_size="100KB")
    (checkpoint / "model-extra.safetensors").write_text("not in the index")
    directory = Path(resolve(MODEL, hub.address, tmp_path / "cache"))
    shards = sorted(path.name for path in directory.glob("*.safetensors"))
    assert len(shards) > 1
    assert shards == sorted(file for file in model.files() if "-of-" in file)
    (directory / shards[0]).unlink()
    message = resolve(MODEL, NOBODY, tmp_path / "cache")
    assert message.startswith(f"refused: {MODEL}: the Hub did not give it (ConnectError: ")
    assert f"the local cache lacks {shards[0]}; run this once with network" in message


def test_names_are_no_patterns(
    hub: Hub, model: Repository, checkpoint: Path, tmp_path: Path
) -> None:
    (checkpoint / "model.safetensors").unlink()
    index = {"weight_map": {"a": "*.safetensors", "b": "[ab].safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    (checkpoint / "a.safetensors").write_text("not in the index")
    (checkpoint / "[ab].safetensors").write_text("in the index")
    resolve(MODEL, hub.address, tmp_path / "cache")
    shards = [file for file in hub.downloaded if file.endswith(".safetensors")]
    assert shards == ["[ab].safetensors"]


def test_without_network_and_cache_the_missing_files_are_named(tmp_path: Path) -> None:
    message = resolve(MODEL, NOBODY, tmp_path / "cache")
    assert message.startswith(f"refused: {MODEL}: the Hub did not give it (ConnectError: ")
    assert "cache lacks config.json, weights (model.safetensors or " in message
    assert "run this once with network, or give a directory that holds these files" in message


def add_commit(model: Repository, checkpoint: Path, directory: Path, what: str) -> str:
    """Another commit, whose files all differ from those of the first."""
    commit = hashlib.sha1(what.encode()).hexdigest()
    shutil.copytree(checkpoint, directory)
    for path in directory.iterdir():
        path.write_text(f"{path.name} of {what}")
    model.commits[commit] = directory
    return commit


def test_a_revision_is_read_and_found_again_without_network(
    hub: Hub, model: Repository, checkpoint: Path, tmp_path: Path
) -> None:
    early = add_commit(model, checkpoint, tmp_path / "early", "step 3000")
    model.revisions = {**model.revisions, "step3000": early}
    cache, names = tmp_path / "cache", [f"{MODEL}@step3000", MODEL, f"{MODEL}@{early}"]
    step, newest, by_hash = resolve_each(names, hub.address, cache)
    assert step == by_hash != newest
    assert Path(step).name == early and Path(newest).name == COMMIT
    for file in model.files():
        assert (Path(step) / file).read_text() == f"{file} of step 3000"
    assert resolve_each(names, NOBODY, cache) == [step, newest, by_hash]


def test_an_adapter_is_downloaded_with_its_own_weights(
    hub: Hub, model: Repository, checkpoint: Path, tmp_path: Path
) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors", "tokenizer.json"):
        (checkpoint / name).write_text(f"this is {name}")
    for name in ("config.json", "generation_config.json"):
        (checkpoint / name).unlink(missing_ok=True)
    directory = resolve(MODEL, hub.address, tmp_path / "cache")
    wanted = ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"]
    assert sorted(os.listdir(directory)) == sorted(hub.downloaded) == wanted
    assert resolve(MODEL, NOBODY, tmp_path / "cache") == directory


def test_an_adapter_with_a_config_of_its_own_is_one_for_a_plan_too(
    hub: Hub, checkpoint: Path, tmp_path: Path
) -> None:
    (checkpoint / "adapter_config.json").write_text("{}")
    code = """if True:
        import sys
        from neox_eqx.checkpoint.hub import resolve
        print(resolve(sys.argv[1], wanted="config").directory)
    """
    (directory,) = outputs(code, [MODEL], hub.address, tmp_path / "cache")
    assert sorted(os.listdir(directory)) == ["adapter_config.json", "config.json"]


def test_a_conversion_certifies_the_commit(hub: Hub, model: Repository, tmp_path: Path) -> None:
    model.revisions = {**model.revisions, "step3000": COMMIT}
    code = """if True:
        import sys
        from neox_eqx.checkpoint.origin import TextOriginOptions
        from neox_eqx.convert.convert import convert
        how = dict(to="native", verify=False, origin=TextOriginOptions(revision="step3000"))
        print(convert(sys.argv[1], sys.argv[2], **how)["source"]["commit"])
    """
    arguments = [MODEL, str(tmp_path / "native")]
    assert outputs(code, arguments, hub.address, tmp_path / "cache") == [COMMIT]


def test_a_push_between_two_requests_mixes_nothing(
    hub: Hub, model: Repository, checkpoint: Path, tmp_path: Path
) -> None:
    other = add_commit(model, checkpoint, tmp_path / "other", "another commit")
    model.pushes = cycle([other, COMMIT])
    cache = Path(resolve(MODEL, hub.address, tmp_path / "cache"))
    for file in model.files():
        assert (cache / file).read_bytes() == (model.commits[cache.name] / file).read_bytes()


def test_a_revision_that_is_not_there_is_told_apart(hub: Hub, tmp_path: Path) -> None:
    sources = [f"{MODEL}@step7", f"{MODEL}@"]
    unknown, empty = resolve_each(sources, hub.address, tmp_path / "cache")
    assert unknown.startswith(f"refused: {MODEL}: has no revision 'step7'; its branches and tags")
    assert empty.startswith(f"refused: {MODEL}@: names no revision after the @")
    message = resolve(f"{MODEL}@step7", NOBODY, tmp_path / "cache")
    assert message.startswith(f"refused: {MODEL}: the Hub did not give it at revision 'step7' (")


def test_two_revisions_of_one_model_are_one_too_many() -> None:
    expected = f"^{MODEL}@main: names a revision, and 'step7' is another; give one$"
    with pytest.raises(InputError, match=expected):
        hub_module.resolve(f"{MODEL}@main", "step7")


def test_a_download_that_breaks_off_goes_on_and_says_nothing(
    hub: Hub, model: Repository, checkpoint: Path, tmp_path: Path
) -> None:
    hub.breaks_off = {"model.safetensors"}
    directory = resolve(MODEL, hub.address, tmp_path / "cache")
    for name in ("config.json", "model.safetensors"):
        assert Path(directory, name).read_bytes() == (checkpoint / name).read_bytes()


def test_model_that_does_not_exist_is_told_apart_from_no_network(hub: Hub, tmp_path: Path) -> None:
    message = resolve("somebody/else", hub.address, tmp_path / "cache")
    assert message.startswith("refused: somebody/else: no such directory, and no such model")


def test_model_without_weights_is_refused(
    hub: Hub, model: Repository, checkpoint: Path, tmp_path: Path
) -> None:
    (checkpoint / "model.safetensors").unlink()
    message = resolve(MODEL, hub.address, tmp_path / "cache")
    assert message.startswith(f"refused: {MODEL}: has no weights; expected one of model.safetens")
    assert hub.downloaded == ["config.json"]


def test_where_a_model_is_says_nothing_beside_what_is_none() -> None:
    OriginOptions().check_unused("--preset")
    for name in ("revision", "base"):
        with pytest.raises(InputError, match=f"^--{name} says where .* --preset names none"):
            OriginOptions(**{name: "main"}).check_unused("--preset")
