"""A case: what stands in a directory, and the command that is run there."""

import base64
import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any, Literal

MODEL = "somebody/tiny"
"""What the Hub has."""
How = Literal["bytes", "remove", "directory", "fifo", "link", "hole"]


@dataclasses.dataclass(frozen=True)
class Edit:
    """What is done to a path of the valid files before the command runs."""

    path: str
    how: How
    data: bytes = b""
    """The content of a file, where a link leads, or the size in bytes of a file of zeros."""

    def apply(self, directory: Path) -> None:
        path = directory / self.path
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.how == "bytes":
            path.write_bytes(self.data)
        elif self.how == "directory":
            path.mkdir()
        elif self.how == "fifo":
            os.mkfifo(path)
        elif self.how == "link":
            path.symlink_to(os.fsdecode(self.data))
        elif self.how == "hole":
            with path.open("wb") as file:
                file.truncate(int(self.data))


@dataclasses.dataclass(frozen=True)
class Case:
    """A command line, or a reader, over valid files (`bases`, by name) with faults (`edits`)."""

    kind: str
    program: str
    args: tuple[str, ...]
    bases: tuple[str, ...] = ()
    edits: tuple[Edit, ...] = ()
    stdin: str = ""
    hub: dict[str, Any] | None = None
    """What the Hub answers otherwise, by the end of a path; see tests/hub.py."""

    @property
    def reads(self) -> bool:
        """Whether it calls a reader of tests/fuzz/readers.py and no command."""
        return self.program == "read"

    def to_json(self) -> dict[str, Any]:
        edits = [
            {"path": edit.path, "how": edit.how, "data": base64.b64encode(edit.data).decode()}
            for edit in self.edits
        ]
        return {**dataclasses.asdict(self), "edits": edits}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Case":
        edits = tuple(
            Edit(edit["path"], edit["how"], base64.b64decode(edit["data"]))
            for edit in value["edits"]
        )
        lists = {name: tuple(value[name]) for name in ("args", "bases")}
        return cls(**{**value, **lists, "edits": edits})

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.to_json(), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Case":
        return cls.from_json(json.loads(path.read_text()))
