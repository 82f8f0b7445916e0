"""Directories with the valid files of a case, and what is otherwise in one than before."""

import itertools
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.fuzz.case import Case, Edit


def fill(
    case: Case, bases: Mapping[str, Path], directory: Path, copy: Callable[[str, str], object]
) -> None:
    """Copies the files of all of a case's bases into a directory."""
    for base in case.bases:
        shutil.copytree(bases[base], directory, dirs_exist_ok=True, copy_function=copy)


class ReadingDirectories:
    """Those of cases of readers, which serve many: to make one takes longer than to read it."""

    def __init__(self, place: Path, bases: Mapping[str, Path]) -> None:
        self._place, self._bases = place, bases
        self._ready: defaultdict[tuple[str, ...], list[Path]] = defaultdict(list)
        self._numbers = itertools.count()

    def take(self, case: Case) -> Path:
        """One with the files of the case's bases, which may have served another case before."""
        if self._ready[case.bases]:
            return self._ready[case.bases].pop()
        # Below one of its own, so that `..` leads to nobody else's.
        directory = self._place / str(next(self._numbers)) / "work"
        directory.mkdir(parents=True)
        # A reader that is not to write leaves what is linked as it is.
        fill(case, self._bases, directory, shutil.copyfile if "--output" in case.args else os.link)
        return directory

    def give_back(self, case: Case, directory: Path, *, is_changed: bool) -> None:
        """Makes a directory ready for another case of the same bases."""
        if is_changed or "--output" in case.args:
            shutil.rmtree(directory)
            return
        for edit in case.edits:
            Edit(edit.path, "remove").apply(directory)
            for base in case.bases:
                if (self._bases[base] / edit.path).is_file():
                    os.link(self._bases[base] / edit.path, directory / edit.path)
        self._ready[case.bases].append(directory)


def look(root: str | Path, within: str = "") -> dict[str, tuple[int, ...]]:
    """What stands below, by its path; a directory's own time is left out, as that tells nothing."""
    found: dict[str, tuple[int, ...]] = {}
    with os.scandir(root) as entries:
        for entry in entries:
            path = f"{within}{entry.name}"
            stat = entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                found |= {path: (stat.st_mode,), **look(entry.path, f"{path}/")}
            else:
                found[path] = stat.st_mode, stat.st_mtime_ns, stat.st_size
    return found


def difference(
    before: dict[str, tuple[int, ...]], after: dict[str, tuple[int, ...]]
) -> dict[str, str]:
    made = dict.fromkeys(after.keys() - before.keys(), "made")
    removed = dict.fromkeys(before.keys() - after.keys(), "removed")
    altered = {
        name: "altered" for name in before.keys() & after.keys() if before[name] != after[name]
    }
    return made | removed | altered
