"""The table of a plan: narrow enough to be read, and of what the workload has."""

from neox_eqx.planning.report import table
from tests.planning.made_up import THREE, plan


def test_a_comparison_is_at_most_100_columns_wide_whatever_the_number_of_slices() -> None:
    for plans in (THREE[:2], THREE, 3 * THREE):
        text = table("gpt-neox-20b", plans)
        body, _, _ = text.partition("\n\nv5e:4x4, ")
        assert max(map(len, body.splitlines())) <= 100
        heads = [line.split() for line in body.splitlines() if line.lstrip().startswith("v")]
        assert sum(heads, []) == [plan.wish.topology.name for plan in plans]
        assert body.count("prefill, all prompts") == len(heads)


def test_a_cell_of_several_lines_stands_in_its_own_column() -> None:
    lines = table("gpt-neox-20b", THREE).splitlines()
    (mesh,) = [number for number, line in enumerate(lines) if line.startswith("mesh")]
    assert lines[mesh].split() == ["mesh", "data=1,model=16", "data=2,model=8", "data=1,model=16"]
    assert lines[mesh + 1].split() == ["layout=2d", "heads=48"]
    ends = [len(lines[mesh].partition("model=8")[0]) + len("model=8"), len(lines[mesh])]
    assert [lines[mesh + 1].index("layout=2d") + 9, len(lines[mesh + 1])] == ends


def test_moments_are_spoken_of_in_training_alone() -> None:
    assert "moments" not in table("gpt-neox-20b", THREE)
    assert "weights and moments  " in table("x", [plan("v5e:4x4", "data=8,model=2", train=True)])


def test_the_slice_of_a_name_is_told_with_what_the_name_counts() -> None:
    said = table("gpt-neox-20b", THREE)
    assert (
        "v4-32 is v4:2x2x4 unless another shape is asked for, 16 chips: the name counts Ten" in said
    )
    assert "unless" not in table("gpt-neox-20b", THREE[:1])
