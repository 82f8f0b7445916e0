"""The flows of docs/design.md list every file of the package, and each is read downwards.

A file of a flow imports files after it, files of lower layers and of the flows above it on the
page, and those that are named as shared.
"""

import re
from collections.abc import Mapping, Sequence

from tests.package_files import ROOT, files, imports
from tests.test_import_layers import LAYERS

SHARED = "Shared by all flows"


def flows(page: str) -> dict[str, list[str]]:
    """The files that the numbered list of each section names, in their order."""
    found: dict[str, list[str]] = {}
    for section in page.split("\n## ")[1:]:
        title, _, text = section.partition("\n")
        items = re.findall(r"^\d+\. (.*(?:\n {2,}.*)*)", text, re.MULTILINE)
        paths = re.findall(r"`([\w/]+\.py)`", " ".join(items))
        if paths:
            found[title] = paths
    return found


def wrong_lists(listed: Mapping[str, list[str]], known: Sequence[str]) -> list[str]:
    """A line for each file that is not listed once, or not there."""
    paths = [path for flow in listed.values() for path in flow]
    return [
        *(f"{path} is in no flow" for path in known if path not in paths),
        *(f"{path} is no file" for path in paths if path not in known),
        *(f"{path} is listed twice" for path in {*paths} if paths.count(path) > 1),
    ]


def wrong_imports(listed: Mapping[str, list[str]], graph: Mapping[str, list[str]]) -> list[str]:
    """A line for each import that leads upwards."""
    wrong = []
    above = {*listed.get(SHARED, ())}
    for title, flow in listed.items():
        for number, path in enumerate(flow):
            for other in graph[path]:
                within = other in flow
                is_lower = not within and (other in above or layer(other) < layer(path))
                if not (other in flow[number:] or is_lower):
                    wrong.append(f"{title}: {path} imports {other}, which does not come after it")
        above |= {*flow}
    return wrong


def layer(path: str) -> int:
    name = path.split("/")[-1] if path.endswith("__main__.py") else path.split("/")[0]
    return LAYERS.index(name.removesuffix(".py"))


DESIGN = (ROOT / "docs" / "design.md").read_text("utf-8")


def on_the_page() -> dict[str, list[str]]:
    return flows(DESIGN)


def test_each_flow_has_a_drawing() -> None:
    drawn = [text for text in DESIGN.split("\n## ")[1:] if "```mermaid\n" in text]
    assert {text.partition("\n")[0] for text in drawn} == on_the_page().keys() - {SHARED}


def test_every_path_on_the_page_is_there() -> None:
    named = re.findall(r"`(\w+/[\w/]+\.py)`", DESIGN)
    assert not [path for path in named if not (ROOT / path).is_file() and path not in files()]


def test_every_file_is_in_one_flow_or_named_as_shared() -> None:
    assert wrong_lists(on_the_page(), [*files()]) == []


def test_the_files_of_a_flow_import_downwards() -> None:
    graph = {path: imports(tree) for path, tree in files().items()}
    assert wrong_imports(on_the_page(), graph) == []


PAGE = """
# Design

## Text to tokens

Read `cli/main.py`, which no list has.

1. words: `text/a.py`,
   `text/b.py`
2. `model/c.py`

- **Why.** Because.

## Shared by all flows

1. `errors.py`
"""


def test_a_list_is_read_as_it_stands() -> None:
    listed = {"Text to tokens": ["text/a.py", "text/b.py", "model/c.py"], SHARED: ["errors.py"]}
    assert flows(PAGE) == listed
    assert wrong_lists(listed, ["text/a.py", "text/b.py", "errors.py", "text/d.py"]) == [
        "text/d.py is in no flow",
        "model/c.py is no file",
    ]
    assert wrong_lists({"A": ["a.py"], "B": ["a.py"]}, ["a.py"]) == ["a.py is listed twice"]


def test_an_import_upwards_is_found() -> None:
    listed = {"A": ["text/a.py", "model/b.py"], "B": ["text/c.py"], SHARED: ["text/d.py"]}
    nothing: dict[str, list[str]] = {path: [] for flow in listed.values() for path in flow}
    down = {"text/a.py": ["model/b.py", "text/d.py"], "text/c.py": ["text/a.py", "model/b.py"]}
    assert wrong_imports(listed, nothing | down) == []
    for path, other in (("model/b.py", "text/a.py"), ("text/a.py", "text/c.py")):
        assert len(wrong_imports(listed, nothing | {path: [other]})) == 1
