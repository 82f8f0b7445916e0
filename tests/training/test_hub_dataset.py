"""Datasets by their Hub id, from a real server on this machine."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import Repository, only, serving

ROOT = Path(__file__).parents[2]
DATASET = "somebody/alpaca"
FILES = {
    "README.md": "---\nlicense: mit\n---\n",
    "train.jsonl": '{"instruction": "a", "input": "", "output": "b"}\n',
    "test.jsonl": '{"instruction": "c", "input": "d", "output": "e"}\n',
}


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[str]:
    directory = tmp_path / "dataset"
    directory.mkdir()
    for name, text in FILES.items():
        (directory / name).write_text(text)
    with serving(datasets={DATASET: Repository.of(directory)}) as hub:
        yield hub.address


def test_a_dataset_is_read_by_its_id_and_split(endpoint: str, tmp_path: Path) -> None:
    code = """if True:
        import sys
        from pathlib import Path
        from neox_eqx.errors import InputError
        from neox_eqx.training.data.examples import read_examples
        for source in sys.argv[1:]:
            try:
                print([message["content"] for message in read_examples(Path(source))[0].messages])
            except InputError as error:
                print("refused:", error)
    """
    settings = {**only(endpoint, tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
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
