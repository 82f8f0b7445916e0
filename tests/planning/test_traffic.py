"""The bytes in HBM of programs whose costs are known because they were planted."""

from collections.abc import Callable

import pytest

from neox_eqx.planning.program import Program, read_program

KIB, MIB = 2**10, 2**20
Planted = dict[str, Program]


@pytest.fixture(scope="module")
def planted(compiled: Callable[[str], Planted]) -> Planted:
    return compiled("planted_bytes")


def hbm_bytes(program: Program) -> int:
    """All but the counters and indices, of 512 bytes each: whole pages of 4 KiB are counted."""
    page = 4 * KIB
    costs = program.hbm_by_instruction()
    return sum(
        each.times * ((each.read_bytes + each.written_bytes) // page * page) for each in costs
    )


def test_a_scan_reads_each_layer_once(planted: Planted) -> None:
    weights, in_and_out = 6 * 4096 * 4096 * 2, 2 * 8 * 4096 * 2
    assert hbm_bytes(planted["scan"]) == weights + in_and_out


def test_int8_weights_are_read_as_int8(planted: Planted) -> None:
    weights, in_and_out = 6 * 4096 * 4096, 2 * 8 * 4096 * 2
    assert hbm_bytes(planted["scan_int8"]) == weights + in_and_out


def test_a_loop_in_a_loop_multiplies(planted: Planted) -> None:
    program = planted["loops_in_loops"]
    assert hbm_bytes(program) == 3 * 4 * 4096 * 4096 * 2 + 2 * 8 * 4096 * 2
    assert program.hbm_by_instruction()[0].times == 3 * 4


def test_a_loop_that_counts_down_by_three_runs_seven_times(planted: Planted) -> None:
    assert hbm_bytes(planted["count_down"]) == 7 * 8192 * 8192 * 2 + 2 * 8 * 8192 * 2


def test_a_value_in_vector_memory_costs_nothing(planted: Planted) -> None:
    assert hbm_bytes(planted["stays_in_vector_memory"]) == 2 * 4096 * 4096 * 2


def test_a_prefetch_counts_once(planted: Planted) -> None:
    program = planted["prefetched"]
    assert any("start" in each.opcode for each in program.computations[program.start])
    assert hbm_bytes(program) == 6 * 1024 * 1024 * 2 + 2 * 8 * 1024 * 2


def test_what_comes_from_the_host_is_written_and_read_and_not_read_there(planted: Planted) -> None:
    assert hbm_bytes(planted["streamed"]) == 2 * 6 * 2048 * 2048 * 2 + 2 * 8 * 2048 * 2


def test_one_step_of_a_loop_until_the_data_say_so(planted: Planted) -> None:
    slot = 8 * 4096 * 2
    step = planted["decode"].loop_body()
    assert hbm_bytes(step) == 6 * 4096 * 4096 * 2 + slot
    assert not step.copies(at_least=slot)


def test_a_slice_reads_itself(planted: Planted) -> None:
    assert hbm_bytes(planted["cut_out"]) == 2 * 2 * 1024 * 1024 * 2


def test_a_slice_of_a_slice_reads_the_inner_one(planted: Planted) -> None:
    assert hbm_bytes(planted["slice_of_a_slice"]) == 2 * 256 * 1024 * 2


def test_looked_up_rows_do_not_read_the_table(planted: Planted) -> None:
    assert hbm_bytes(planted["rows_of_a_table"]) == 2 * 64 * 2048 * 2


def test_96_lanes_take_the_room_of_128(planted: Planted) -> None:
    assert hbm_bytes(planted["head_of_96"]) == 64 * 1024 * 128 * 2


def test_a_slot_written_in_place_costs_the_slot(planted: Planted) -> None:
    """Rows of bf16 are packed in pairs: the slot and its neighbour are read and written."""
    pairs = 64 * 2 * 1024 * 2
    program = planted["write_slot"]
    assert hbm_bytes(program) == 3 * pairs
    assert not program.copies(at_least=64 * 1024 * 1024 * 2)


def test_a_slot_written_into_a_copy_costs_the_whole(planted: Planted) -> None:
    cache = 64 * 1024 * 1024 * 2
    program = planted["write_slot_of_a_copy"]
    assert program.hbm_bytes() > 2 * cache
    (copy,) = program.copies(at_least=cache)
    assert (copy.opcode, copy.read_bytes, copy.written_bytes) == ("copy", cache, cache)


def test_a_written_lane_costs_its_128(planted: Planted) -> None:
    assert hbm_bytes(planted["write_lane"]) == 3 * 64 * 1024 * 128 * 2


def test_two_caches_written_by_one_fusion_are_both_in_place(planted: Planted) -> None:
    x, weight = 1024 * 4096 * 2, 4096 * 4096 * 2
    program = planted["write_two_caches"]
    assert hbm_bytes(program) == 6 * (weight + 2 * x) + 2 * x
    assert program.hbm_by_instruction()[0].written_bytes == 2 * x


def test_a_copy_in_every_trip_is_seen(planted: Planted) -> None:
    cache = 4096 * 8 * 4096 * 2
    program = planted["copies_the_cache"]
    in_the_loop = [copy for copy in program.copies(at_least=cache) if copy.times == 5]
    assert in_the_loop
    assert program.hbm_bytes() >= 5 * 2 * cache
    assert program.copies(at_least=cache + 1) == []


def test_a_copy_by_way_of_vector_memory_is_seen(planted: Planted) -> None:
    layer = 8 * 1024 * 2048 * 2
    program = planted["through_vector_memory"]
    (copy,) = [copy for copy in program.copies(at_least=layer) if copy.times == 6]
    assert (copy.read_bytes, copy.written_bytes) == (0, layer)


@pytest.mark.parametrize(("name", "size"), [("transposed", 128 * MIB), ("joined", 256 * MIB)])
def test_a_change_of_layout_or_place_is_a_copy(planted: Planted, name: str, size: int) -> None:
    program = planted[name]
    assert hbm_bytes(program) == 2 * size
    assert [copy.written_bytes for copy in program.copies(at_least=size)] == [size]


def test_the_instructions_add_up_and_say_where_they_come_from(planted: Planted) -> None:
    program = planted["scan"]
    costs = program.hbm_by_instruction()
    assert sum(cost.bytes for cost in costs) == program.hbm_bytes()
    assert costs == sorted(costs, key=lambda cost: -cost.bytes)
    assert costs[0].opcode == "fusion"
    assert costs[0].description == "dot_general: bf16[6,4096,4096], bf16[8,4096] -> bf16[8,4096]"


def entry(*lines: str) -> Program:
    """A program of one computation."""
    return read_program("HloModule m\n\nENTRY %main () -> f32[] {\n" + "\n".join(lines) + "\n}\n")


X = "  %x = f32[1024,1024]{1,0:T(8,128)} parameter(0)"


@pytest.mark.parametrize(
    ("config", "expected"),
    [("", 8 * MIB), (', backend_config={"cost_estimate":{"bytes_accessed":"12345"}}', 12345)],
)
def test_a_custom_call_counts_whole_unless_it_says_how_much(config: str, expected: int) -> None:
    call = '  ROOT %y = f32[1024,1024]{1,0:T(8,128)} custom-call(%x), custom_call_target="kernel"'
    assert entry(X, call + config).hbm_bytes() == expected


def test_a_buffer_without_contents_is_not_written() -> None:
    allocated = 'custom_call_target="AllocateBuffer"'
    program = entry(f"  ROOT %y = f32[1024,1024]{{1,0:T(8,128)}} custom-call(), {allocated}")
    assert program.hbm_bytes() == 0


def test_an_operand_that_is_taken_twice_is_read_once() -> None:
    assert entry(X, "  ROOT %y = f32[] dot(%x, %x)").hbm_bytes() == 4 * MIB + 4


def test_a_lane_that_is_computed_and_written_in_place_is_no_copy() -> None:
    program = entry(
        X,
        "  %new = f32[1024,1]{1,0:T(8,128)S(1)} parameter(1)",
        "  %i = s32[]{:S(6)} parameter(2)",
        "  ROOT %y = f32[1024,1024]{1,0:T(8,128)} dynamic-update-slice(%x, %new, %i, %i)",
    )
    assert program.hbm_bytes() == 2 * 1024 * 128 * 4
    assert program.copies(at_least=1) == []


def test_a_lane_that_is_written_beside_other_work_counts_as_one_that_is_not() -> None:
    program = entry(
        X,
        "  %new = f32[1024,1]{1,0:T(8,128)S(1)} parameter(1)",
        "  %i = s32[]{:S(6)} parameter(2)",
        "  %s = (f32[1024,1024]{1,0:T(8,128)}, u32[]) dynamic-update-slice-start(%x, %new, %i, %i)",
        "  ROOT %y = f32[1024,1024]{1,0:T(8,128)} dynamic-update-slice-done(%s)",
    )
    assert program.hbm_bytes() == 2 * 1024 * 128 * 4


def test_every_branch_counts() -> None:
    program = read_program("""HloModule m

%a (p: (f32[1024])) -> f32[1024] {
  %p = (f32[1024]{0:T(1024)}) parameter(0)
  %e = f32[1024]{0:T(1024)} get-tuple-element(%p), index=0
  ROOT %n = f32[1024]{0:T(1024)} negate(%e)
}

%b (q: (f32[1024])) -> f32[1024] {
  %q = (f32[1024]{0:T(1024)}) parameter(0)
  %f = f32[1024]{0:T(1024)} get-tuple-element(%q), index=0
  ROOT %s = f32[1024]{0:T(1024)} sine(%f)
}

ENTRY %main (c: s32[], x: f32[1024]) -> f32[1024] {
  %c = s32[] parameter(0)
  %x = f32[1024]{0:T(1024)} parameter(1)
  %t = (f32[1024]{0:T(1024)}) tuple(%x)
  ROOT %r = f32[1024]{0:T(1024)} conditional(%c, %t, %t), branch_computations={%a, %b}
}
""")
    assert program.hbm_bytes() == 2 * 2 * 4 * KIB
