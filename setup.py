"""Compiles the C++ library as a checkout is installed in place; pyproject.toml has all else.

A wheel goes without it, and serves every machine: there it is compiled at first use. That it cannot
be compiled now, as without a compiler or JAX, is no reason for an install to fail.
"""

import runpy
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

NATIVE = Path(__file__).parent / "neox_eqx" / "native"


class BuildWithLibrary(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            _compile()


def _compile() -> None:
    native = runpy.run_path(str(NATIVE / "build.py"))
    try:
        path = native["BESIDE"] / native["file_name"]()
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            native["build"](path, native["find_compiler"]())
    except (ImportError, OSError, native["BuildError"]) as error:
        print(f"the library for CPUs is not compiled now: {error}")


setup(cmdclass={"build_py": BuildWithLibrary})
