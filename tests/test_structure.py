"""The order and the limits that CONTRIBUTING.md gives hold for every file of the package."""

import ast
import re
from collections.abc import Iterator, Mapping

from tests.package_files import PACKAGE, ROOT, files, imports
from tests.test_import_layers import LAYERS

PAGE = " ".join((ROOT / "CONTRIBUTING.md").read_text("utf-8").split())
TAKE_ANY_NAME = {
    # Options of generation, as in generate(prompts, max_new_tokens=10).
    *("TextGenerator.generate", "TextGenerator.stream", "Conversation.__init__"),
    # Others call these as they like: lm-evaluation-harness, and templates in Jinja.
    *("NeoXLM.tok_encode", "Sandbox.call"),
    *("TemplateDict.__call__", "TemplateNamespace.__init__"),
}
"""The public functions with keywords that their signature does not name."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def too_long(path: str, source: str, *, file: int, function: int) -> list[str]:
    """What has as many lines as that or more, docstrings not counted."""
    tree = ast.parse(source)
    docstrings = {line for node in ast.walk(tree) for line in _docstring(node)}
    sizes = {path: (len({*range(len(source.splitlines()))} - docstrings), file)}
    for name, node in functions(tree):
        lines = {*range(node.lineno, node.end_lineno + 1)} if node.end_lineno else set()
        sizes[f"{path}: {name}"] = (len(lines - docstrings), function)
    return [f"{what} has {size} lines" for what, (size, most) in sizes.items() if size >= most]


def _docstring(node: ast.AST) -> Iterator[int]:
    """The lines of each text that stands alone among the statements of a body."""
    body = getattr(node, "body", None)
    for each in body if isinstance(body, list) else []:
        if isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant):
            if isinstance(each.value.value, str):
                yield from range(each.lineno, (each.end_lineno or each.lineno) + 1)


def functions(tree: ast.AST, within: str = "") -> Iterator[tuple[str, Function]]:
    """Every function with its name, which those of a class begin with the class's."""
    for node in ast.iter_child_nodes(tree):
        name = within
        if isinstance(node, Function | ast.ClassDef):
            name = f"{within}.{node.name}" if within else node.name
        if isinstance(node, Function):
            yield name, node
        yield from functions(node, name)


def circles(graph: Mapping[str, list[str]]) -> list[str]:
    """A line for each circle that a walk along the imports comes to."""
    found: list[str] = []
    done: set[str] = set()

    def walk(path: str, way: tuple[str, ...]) -> None:
        if path in way:
            found.append(" imports ".join((*way[way.index(path) :], path)))
        elif path not in done:
            for other in graph[path]:
                walk(other, (*way, path))
            done.add(path)

    for path in graph:
        walk(path, ())
    return found


def unnamed_keywords(tree: ast.AST) -> list[str]:
    """The public functions that take keywords which they do not name."""
    return [
        name
        for name, node in functions(tree)
        if node.args.kwarg and not re.search(r"(^|\.)_(?!_)", name) and name not in TAKE_ANY_NAME
    ]


def limits() -> dict[str, int]:
    match = re.search(r"in under (\d+) lines; a function has under (\d+)", PAGE)
    assert match
    return {"file": int(match[1]), "function": int(match[2])}


def test_the_page_gives_the_order_of_the_layers() -> None:
    listed = re.search(r"Import downwards only: (.*?)\. `tests/test_import_layers\.py`", PAGE)
    assert listed
    names = listed[1].replace("what `neox_eqx` itself names", "public").split(", ")
    assert names == [layer for layer in LAYERS if not layer.startswith("__")]


def test_no_file_and_no_function_is_too_long() -> None:
    sources = {path: (PACKAGE / path).read_text("utf-8") for path in files()}
    assert len(sources) > 100
    assert [long for path in sources for long in too_long(path, sources[path], **limits())] == []


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circles({path: imports(tree) for path, tree in files().items()}) == []


def groups(graph: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Which of the folders within a package imports which other."""
    found: dict[str, list[str]] = {}
    for path, others in graph.items():
        for other in [path, *others]:
            own, its = path.rpartition("/")[0], other.rpartition("/")[0]
            if "/" in own and "/" in its:
                found.setdefault(own, [])
                found[own] += [its] if own != its else []
    return found


def test_the_folders_of_a_package_import_each_other_in_one_direction() -> None:
    graph = groups({path: imports(tree) for path, tree in files().items()})
    assert "training/update" in graph["training/run"]
    assert circles(graph) == []


def test_every_public_function_names_its_keywords() -> None:
    found = {path: unnamed_keywords(tree) for path, tree in files().items()}
    assert {path: names for path, names in found.items() if names} == {}


def test_what_is_too_long_is_found() -> None:
    body = 'def f():\n    """Says\n    it."""\n' + "    x = 1\n" * 3
    assert too_long("a.py", body, file=9, function=5) == []
    assert too_long("a.py", body, file=9, function=4) == ["a.py: f has 4 lines"]
    assert too_long("a.py", body, file=4, function=5) == ["a.py has 4 lines"]


def test_a_circle_is_found() -> None:
    assert circles({"a": ["b"], "b": ["c"], "c": []}) == []
    assert circles({"a": ["b"], "b": ["c"], "c": ["b"]}) == ["b imports c imports b"]
    both = {"a/b/x.py": ["a/c/y.py"], "a/c/y.py": [], "a/c/z.py": ["a/b/w.py"], "a/b/w.py": []}
    assert circles(both) == [] and circles(groups(both)) == ["a/b imports a/c imports a/b"]
    tree = ast.parse("def late():\n    from neox_eqx.errors import InputError")
    assert imports(tree) == ["errors.py"]
    assert imports(ast.parse("if TYPE_CHECKING:\n    import neox_eqx.errors")) == []


def test_keywords_that_are_not_named_are_found() -> None:
    source = (
        "def load(**how): ...\nclass A:\n    def b(self, **how): ...\n    def _c(self, **how): ..."
    )
    assert unnamed_keywords(ast.parse(source)) == ["load", "A.b"]
