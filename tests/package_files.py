"""The files of the package, and which of them each one imports."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "neox_eqx"


@cache
def files() -> dict[str, ast.Module]:
    """By the path below `neox_eqx/`; without the files that hold no more than a docstring."""
    trees = {
        path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text("utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    }
    return {path: tree for path, tree in trees.items() if len(tree.body) > 1 or "__" not in path}


def imports(tree: ast.AST) -> list[str]:
    """The files that a file imports, those of a function too, but not what only types need."""
    found: list[str] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [path for name in (*inner, node.module) if (path := _path(name))]
        elif isinstance(node, ast.Import):
            found += [path for alias in node.names if (path := _path(alias.name))]
        found += imports(node)
    return list(dict.fromkeys(found))


def _path(module: str) -> str | None:
    """The file of a module of the package."""
    first, *parts = module.split(".")
    if first != PACKAGE.name:
        return None
    candidates = ("/".join(parts) + ".py", "/".join([*parts, "__init__.py"]))
    return next((path for path in candidates if path in files()), None)
