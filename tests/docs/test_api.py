"""The reference has all that the package names."""

import re

import neox_eqx
from tests.docs.blocks import ROOT


def test_each_public_name_is_on_one_page_of_the_reference() -> None:
    pages = (path.read_text("utf-8") for path in (ROOT / "docs" / "api").glob("*.md"))
    names = re.findall(r"^::: neox_eqx\.(\w+)$", "\n".join(pages), re.MULTILINE)
    assert sorted(names) == sorted(set(neox_eqx.__all__) - {"__version__"})
