"""Runs the blocks of a page in this directory, in their order: python -m tests.docs.run_page PAGE

What a page needs besides, as a Hub, is in the environment. Its Python is one session. A block of
text right after one that is run is what that prints, by doctest's comparison.
"""

import contextlib
import doctest
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.docs.blocks import Block, blocks

LIKE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def main(page: Path, text: str | None = None) -> None:
    session: dict[str, Any] = {"__name__": "__main__"}
    printed: str | None = None
    for block in blocks(page, text):
        if block.is_run:
            print(block.where, file=sys.stderr, flush=True)
            printed = _python(block, session) if block.language == "python" else _bash(block)
            continue
        if block.title and not block.reason:
            path = Path(block.title)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, "utf-8")
        elif block.language == "text" and not block.reason and printed is not None:
            if not doctest.OutputChecker().check_output(block.text, printed, LIKE):
                sys.exit(f"{block.where}: this was printed instead:\n{printed}")
        printed = None


def _bash(block: Block) -> str:
    command = ["bash", "-e", "-o", "pipefail", "-c", block.text]
    ran = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    if ran.returncode:
        sys.exit(f"{block.where}: status {ran.returncode}\n{ran.stdout}")
    return ran.stdout


def _python(block: Block, session: dict[str, Any]) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block.text, block.where, "exec"), session)
    return printed.getvalue()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
