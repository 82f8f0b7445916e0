"""Collectives of programs in which they were planted, and of the compiler's ways to write them."""

from collections.abc import Callable

import pytest

from neox_eqx.planning.collectives import Collective
from neox_eqx.planning.program import Program, read_program

Planted = dict[str, Program]
ROW = 8 * 1024 * 2


@pytest.fixture(scope="module")
def planted(compiled: Callable[[str], Planted]) -> Planted:
    return compiled("planted_collectives")


def facts(collective: Collective) -> tuple:
    return (
        collective.kind,
        collective.payload_bytes,
        collective.dtype,
        collective.group_size,
        collective.loops,
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("all_reduce", [("all-reduce", ROW, "bf16", 4, (6,))]),
        ("two_all_reduces", [("all-reduce", ROW, "bf16", 4, (6,))] * 2),
        ("all_reduce_of_two", [("all-reduce", ROW + 8 * 96 * 2, "bf16", 4, ())]),
        ("all_reduce_by_the_compiler", [("all-reduce", ROW, "bf16", 4, ())]),
        ("all_reduce_over_one_axis", [("all-reduce", 32 * 1024 * 2, "bf16", 2, ())]),
        (
            "all_reduce_by_the_compiler_over_one_axis",
            [("all-reduce", 4 * 1024 * 2, "bf16", 2, ())],
        ),
        ("all_gather", [("all-gather", 512 * 1024 * 2, "bf16", 4, ())]),
        ("reduce_scatter", [("reduce-scatter", 512 * 1024 * 2, "bf16", 4, ())]),
        ("all_to_all", [("all-to-all", 16 * 1024 * 2, "bf16", 4, ())]),
        ("permute", [("collective-permute", 128 * 1024 * 2, "bf16", 4, ())]),
    ],
)
def test_planted_collectives(planted: Planted, name: str, expected: list[tuple]) -> None:
    assert [facts(each) for each in planted[name].collectives()] == expected


def test_a_sum_and_slice_in_one_fusion_is_a_reduce_scatter(planted: Planted) -> None:
    """The compiler pads the rows to 2,112, so that the parts meet its tiles."""
    collectives = planted["fused_reduce_scatter"].collectives()
    scattered = [each for each in collectives if each.kind == "reduce-scatter"]
    gathered = [each for each in collectives if each.kind == "all-gather"]
    assert [facts(each) for each in scattered] == [
        ("reduce-scatter", 2112 * 2048 * 2, "bf16", 4, (6,))
    ]
    assert [facts(each) for each in gathered] == [("all-gather", 2048 * 2048 * 2, "bf16", 4, (6,))]
    assert scattered[0].times == 6


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        ("ROOT %c = f32[256] copy(%k)", "reduce-scatter"),
        ("ROOT %c = f32[1024] copy(%r)", "all-reduce"),
    ],
)
def test_a_sum_of_which_a_fusion_keeps_more_than_a_slice_is_an_all_reduce(
    result: str, kind: str
) -> None:
    shape = result.split()[3]
    (collective,) = read_program(f"""HloModule m, num_partitions=4

%fused (p: f32[1024], i: s32[]) -> {shape} {{
  %p = f32[1024] parameter(0)
  %i = s32[] parameter(1)
  %r = f32[1024] all-reduce(%p), replica_groups={{{{0,1,2,3}}}}, to_apply=%add
  %k = f32[256] dynamic-slice(%r, %i), dynamic_slice_sizes={{256}}
  {result}
}}

ENTRY %main (x: f32[1024], i: s32[]) -> {shape} {{
  %x = f32[1024] parameter(0)
  %i = s32[] parameter(1)
  ROOT %f = {shape} fusion(%x, %i), kind=kCustom, calls=%fused
}}
""").collectives()
    assert facts(collective) == (kind, 4096, "f32", 4, ())


def reduced(attributes: str, header: str = "") -> list[Collective]:
    """The collectives of a program with one all-reduce of 4 KiB."""
    return read_program(f"""HloModule m{header}

%add (a: f32[], b: f32[]) -> f32[] {{
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b)
}}

ENTRY %main (x: f32[1024]) -> f32[1024] {{
  %x = f32[1024]{{0:T(1024)}} parameter(0)
  ROOT %y = f32[1024]{{0:T(1024)}} all-reduce(%x), {attributes}, to_apply=%add
}}
""").collectives()


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("replica_groups={{0,1,2},{3,4,5}}", 3),
        ("replica_groups=[4,8]<=[32]", 8),
        ("replica_groups=[2,4]<=[4,2]T(1,0)", 4),
        ("replica_groups=mesh['axis_0'=16] {'axis_0'}", 16),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_1'}", 2),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0','axis_1'}", 8),
        ("replica_groups=mesh['axis_0'=8,'axis_1'=2] {'axis_0':(2)4}", 4),
        (
            "replica_groups=mesh['a'=2,'b'=4,'c'=2], device_ids=([16]<=[4,2,2]T(1,0,2)) {'b'}",
            4,
        ),
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=([8]<=[8]) {'a'}", 2),
        ("replica_groups={}", 64),
    ],
)
def test_the_ways_to_name_groups(groups: str, size: int) -> None:
    (collective,) = reduced(groups, ", num_partitions=64")
    assert collective.group_size == size
    assert collective.payload_bytes == 4096


@pytest.mark.parametrize("groups", ["{{0},{1}}", "[8,1]<=[8]", "mesh['a'=8,'b'=1] {'b'}"])
def test_a_group_of_one_chip_sends_nothing(groups: str) -> None:
    assert reduced(f"replica_groups={groups}", ", num_partitions=8") == []


def test_a_pair_counts_once_with_the_size_of_what_is_done() -> None:
    program = read_program("""HloModule m, num_partitions=4

ENTRY %main (x: f32[1024]) -> f32[4096] {
  %x = f32[1024]{0:T(1024)} parameter(0)
  %s = (f32[1024]{0:T(1024)}, f32[4096]{0:T(1024)}) all-gather-start(%x), \
replica_groups={{0,1,2,3}}, dimensions={0}
  ROOT %d = f32[4096]{0:T(1024)} all-gather-done(%s)
}
""")
    (collective,) = program.collectives()
    assert facts(collective) == ("all-gather", 4 * 4096, "f32", 4, ())
    assert program.hbm_bytes() == 4 * 1024 + 4 * 4096


def test_one_that_runs_in_a_fusion_beside_a_product_is_found() -> None:
    program = read_program("""HloModule m, num_partitions=4

%fused (p: f32[1024], q: f32[8,128]) -> (f32[4096], f32[8,8]) {
  %p = f32[1024]{0:T(1024)} parameter(0)
  %q = f32[8,128]{1,0:T(8,128)} parameter(1)
  %g = f32[4096]{0:T(1024)} all-gather(%p), replica_groups={{0,1,2,3}}, dimensions={0}
  %m = f32[8,8]{1,0:T(8,128)} dot(%q, %q), lhs_contracting_dims={1}, rhs_contracting_dims={1}
  ROOT %t = (f32[4096]{0:T(1024)}, f32[8,8]{1,0:T(8,128)}) tuple(%g, %m)
}

ENTRY %main (x: f32[1024], y: f32[8,128]) -> (f32[4096], f32[8,8]) {
  %x = f32[1024]{0:T(1024)} parameter(0)
  %y = f32[8,128]{1,0:T(8,128)} parameter(1)
  ROOT %f = (f32[4096]{0:T(1024)}, f32[8,8]{1,0:T(8,128)}) fusion(%x, %y), kind=kCustom, \
calls=%fused
}
""")
    assert [facts(each) for each in program.collectives()] == [
        ("all-gather", 4 * 4096, "f32", 4, ())
    ]


def test_one_that_runs_beside_other_work_counts_once_for_its_start_work_and_end() -> None:
    """As the compiler writes it: three fusions, each with a copy of the gather."""
    fused = "".join(
        f"""%{name} (p: f32[1024]) -> f32[4096] {{
  %p.{name} = f32[1024]{{0:T(1024)}} parameter(0)
  ROOT %g.{name} = f32[4096]{{0:T(1024)}} all-gather(%p.{name}), channel_id=7, \
replica_groups={{{{0,1,2,3}}}}, dimensions={{0}}, frontend_attributes={{chain_id="0"}}
}}

"""
        for name in ("begun", "beside", "ended")
    )
    calls = "".join(
        f"  %{name} = f32[4096]{{0:T(1024)}} fusion(%x), kind=kCustom, calls=%{called}\n"
        for name, called in (
            ("async-collective-start", "begun"),
            ("fusion.3", "beside"),
            ("async-collective-done", "ended"),
        )
    )
    program = read_program(
        "HloModule m, num_partitions=4\n\n"
        + fused
        + "ENTRY %main (x: f32[1024]) -> f32[4096] {\n"
        + "  %x = f32[1024]{0:T(1024)} parameter(0)\n"
        + calls
        + "  ROOT %y = f32[4096]{0:T(1024)} copy(%async-collective-done)\n}\n"
    )
    (only,) = program.collectives()
    assert facts(only) == ("all-gather", 4 * 4096, "f32", 4, ())
    assert only.beside_work


def test_a_permutation_counts_the_chips_that_move_something() -> None:
    text = """HloModule m, num_partitions=4

ENTRY %main (x: f32[1024]) -> f32[1024] {{
  %x = f32[1024]{{0:T(1024)}} parameter(0)
  ROOT %y = f32[1024]{{0:T(1024)}} collective-permute(%x), source_target_pairs={pairs}
}}
"""
    sizes = [
        [each.group_size for each in read_program(text.format(pairs=pairs)).collectives()]
        for pairs in ("{{0,1},{1,0},{2,2}}", "{{0,3}}", "{{0,0},{1,1}}")
    ]
    assert sizes == [[2], [2], []]
