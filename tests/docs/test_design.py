"""The page about the design names files that are there."""

import re

from tests.docs.blocks import ROOT

PAGE = (ROOT / "docs" / "design.md").read_text("utf-8")


def test_every_file_that_the_design_names_is_there() -> None:
    named = set(re.findall(r"`([\w/]+/\w+\.py)`", PAGE))
    assert len(named) > 40
    assert not [name for name in sorted(named) if not (ROOT / "neox_eqx" / name).is_file()]


def test_each_flow_has_a_drawing_and_an_order_to_read_in() -> None:
    flows = [section for section in PAGE.split("\n## ")[1:] if "```mermaid" in section]
    assert len(flows) == 8
    assert all("\nRead `" in flow for flow in flows)
