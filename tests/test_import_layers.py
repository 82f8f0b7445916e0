"""The package's layers import downwards only, and nothing heavy that inference does without."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the bottom: a layer imports from itself and from those before it.
LAYERS = (
    "errors",
    "output",
    "shown",
    "sizes",
    "hardware",
    "small_files",
    "unicode",
    "user_cache",
    "programs",
    "destination",
    "tokenizer",
    "field_types",
    "rope",
    "config",
    "presets",
    "option_kinds",
    "command_line",
    "sharding",
    "native",
    "model",
    "checkpoint",
    "generation",
    "text",
    "scoring",
    "convert",
    "training",
    "planning",
    "benchmarking",
    "harness",
    "public",
    "__init__",
    "cli",
    "__main__",
)
NARROWER = {
    "option_kinds": {"option_kinds", "small_files", "shown", "tokenizer", "errors"},
    "command_line": {"command_line", "option_kinds", "shown", "output", "errors"},
}
ONLY_WHERE_USED = {"torch", "transformers"}


def violations(path: str, source: str) -> list[str]:
    """What `source`, the file at `path` below the package, may not import, a line each."""
    parts = path.removesuffix(".py").split("/")
    layer = _layer(parts)
    if layer == "__init__" != parts[0]:
        return [f"{path}: belongs to no layer"]
    allowed = NARROWER.get(layer, set(LAYERS[: LAYERS.index(layer) + 1]))
    tree = ast.parse(source)
    wrong = []
    for line, module in _imports(tree, path):
        first, *rest = module.split(".")
        if first == "neox_eqx" and _layer(rest) not in allowed:
            wrong.append(f"{path}:{line}: {layer} may not import {module}")
    for line, module in _imports(ast.Module(list(_run_on_import(tree)), []), path):
        if module.split(".")[0] in ONLY_WHERE_USED:
            wrong.append(f"{path}:{line}: {module} is imported with the module")
    return wrong


def _layer(parts: list[str]) -> str:
    """Of what is no layer, as the package itself and a name in it, `__init__`."""
    name = "__main__" if parts[-1:] == ["__main__"] else parts[0] if parts else ""
    return name if name in LAYERS else "__init__"


def _run_on_import(node: ast.AST) -> Iterator[ast.stmt]:
    """The statements that importing a module runs: all but the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) or _is_for_types(child):
            continue
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        yield from _run_on_import(child)


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def _imports(tree: ast.AST, path: str) -> Iterator[tuple[int, str]]:
    """Line and full name of all that is imported anywhere in the tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = ["neox_eqx", *path.split("/")]
            base = package[: len(package) - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module == "neox_eqx":
                yield from ((node.lineno, f"neox_eqx.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, module


def test_every_file_imports_downwards() -> None:
    package = ROOT / "neox_eqx"
    files = sorted(package.rglob("*.py"))
    assert len(files) > 10
    wrong = [
        violation
        for file in files
        for violation in violations(file.relative_to(package).as_posix(), file.read_text("utf-8"))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("model/block.py", "from neox_eqx.generation.decoding.loop import generate"),
        ("model/block.py", "import neox_eqx.checkpoint.load as load"),
        ("model/block.py", "from neox_eqx import text"),
        ("model/block.py", "from neox_eqx import DEMO_MODEL"),
        ("harness/adapter.py", "from neox_eqx.cli.main import main"),
        ("cli/main.py", "from neox_eqx.__main__ import main"),
        ("model/block.py", "from ..checkpoint import load"),
        ("model/block.py", "from .. import checkpoint"),
        ("model/block.py", "import neox_eqx"),
        ("model/block.py", "def late():\n    from neox_eqx.text import continue_text"),
        ("config.py", "from neox_eqx.presets import PRESETS"),
        ("command_line.py", "from neox_eqx.config import GPTNeoXConfig"),
        ("text/stream.py", "import transformers"),
        ("checkpoint/load.py", "try:\n    from torch import nn\nexcept ImportError:\n    pass"),
        ("checkpoint/load.py", "class Loader:\n    import torch.nn"),
        ("server/app.py", ""),
    ],
)
def test_a_violation_is_found(path: str, source: str) -> None:
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("model/block.py", "from neox_eqx.config import GPTNeoXConfig"),
        ("model/block.py", "from neox_eqx.model.rotary import Rotary"),
        ("model/block.py", "from .rotary import Rotary"),
        ("generation/decoding/loop.py", "from ...model.neox import GPTNeoX"),
        ("command_line.py", "import tyro\n\nfrom neox_eqx.errors import InputError"),
        ("checkpoint/load.py", "def read_bin(path):\n    import torch"),
        ("checkpoint/load.py", "if TYPE_CHECKING:\n    import torch"),
        ("__init__.py", "from neox_eqx.text import continue_text"),
        ("cli/generate.py", "from neox_eqx import DEMO_MODEL"),
        ("harness/__main__.py", "from neox_eqx.cli.main import main"),
    ],
)
def test_a_downward_import_passes(path: str, source: str) -> None:
    assert violations(path, source) == []
