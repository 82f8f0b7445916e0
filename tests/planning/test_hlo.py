"""How the compiler's text is written: shapes, instructions, loops, and what is none of them."""

import pytest

from neox_eqx.errors import InputError
from neox_eqx.planning.hlo import read_computations
from neox_eqx.planning.program import read_program
from neox_eqx.planning.shapes import Shape, read_shapes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("f32[]", 4),
        ("pred[3]", 3),
        ("s32[]{:T(128)}", 512),
        ("f32[6144]{0:T(1024)}", 6144 * 4),
        ("bf16[6144]{0:T(1024)(128)(2,1)}", 6144 * 2),
        ("bf16[44,6144]{1,0:T(8,128)(2,1)}", 48 * 6144 * 2),
        ("bf16[64,1,6144]{2,0,1:T(8,128)(2,1)}", 64 * 6144 * 2),
        ("bf16[64,1,6144]{2,1,0:T(8,128)(2,1)}", 64 * 8 * 6144 * 2),
        ("bf16[64,1,6144]{2,1,0:T(2,128)(2,1)}", 64 * 2 * 6144 * 2),
        ("bf16[1,6144]{1,0:T(1,128)(2,1)}", 2 * 6144 * 2),
        ("bf16[2,64,96]{1,2,0:T(8,128)(2,1)}", 2 * 96 * 128 * 2),
        ("s8[100,100]{1,0:T(32,128)(4,1)}", 128 * 128),
        ("s4[64,256]{1,0:T(64,128)(8,1)E(4)}", 64 * 256 // 2),
        ("f8e4m3fn[32,128]{1,0:T(8,128)(4,1)}", 32 * 128),
        ("c64[8]", 64),
        ("token[]", 0),
        ("f32[0,128]{1,0:T(8,128)}", 0),
    ],
)
def test_the_room_a_shape_takes_in_its_tiles(text: str, size: int) -> None:
    (shape,) = read_shapes(text)
    assert shape.bytes == size


def test_a_shape_has_all_that_is_printed_of_it() -> None:
    (shape,) = read_shapes("bf16[44,64,96]{1,2,0:T(8,128)(2,1)S(1)}")
    assert shape == Shape("bf16", (44, 64, 96), (1, 2, 0), ((8, 128), (2, 1)), 1)
    assert shape.physical == (44, 96, 64)
    assert shape.logical_bytes == 44 * 64 * 96 * 2
    assert str(shape) == "bf16[44,64,96]"


def test_the_arrays_of_nested_tuples_follow_each_other() -> None:
    shapes = read_shapes(
        "((bf16[8]{0:T(1024)S(5)}, s32[]), /*index=2*/f32[4,2]{1,0}, u32[]{:S(2)})"
    )
    assert [str(shape) for shape in shapes] == ["bf16[8]", "s32[]", "f32[4,2]", "u32[]"]
    assert [shape.space for shape in shapes] == [5, 0, 0, 2]


def test_an_instruction_is_read_whole() -> None:
    computations, entry = read_computations("""HloModule m, is_scheduled=true

FileNames
1 "a.py"

StackFrames
1 {file_location_id=1 parent_frame_id=1}

%fused (p.1: f32[8], /*index=1*/q: f32[8]) -> f32[8] {
  %p.1 = f32[8]{0:T(128)} parameter(0)
  %q = f32[8]{0:T(128)S(1)} parameter(1)
  ROOT %s = f32[8]{0:T(128)} add(%p.1, %q)
}

ENTRY %main.3_spmd (x: f32[8]) -> (f32[8]) {
  %c = f32[8]{0:T(128)} constant({1, 2, 3, 4, 5, 6, 7, 8})
  %x = f32[8]{0:T(128)} parameter(0), sharding={replicated}, metadata={op_name="x[\\'a (b\\']"}
  %f-1 = f32[8]{0:T(128)} fusion(%x, /*index=1*/%c), kind=kLoop, calls=%fused
  ROOT %t = (f32[8]{0:T(128)}) tuple(%f-1)
}
""")
    main = computations[entry]
    assert entry == "main.3_spmd"
    assert [each.opcode for each in main] == ["constant", "parameter", "fusion", "tuple"]
    assert main["f-1"].operands == ("x", "c")
    assert main["f-1"].calls == ("fused",)
    assert main.root.name == "t"
    assert [each.name for each in main.users["x"]] == ["f-1"]
    assert {n: each.name for n, each in computations["fused"].parameters.items()} == {
        0: "p.1",
        1: "q",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no ENTRY"),
        ("HloModule m\n\n%f () -> f32[] {\n  ROOT %x = f32[] constant(1)\n}\n", "no ENTRY"),
        ("ENTRY %f () -> f32[] {\n  %x = f32[] constant(1)\n}\n", "no ROOT"),
        ("ENTRY %f () -> f32[] {\n  ROOT %x = f32[] add(%y\n}\n", "not closed"),
        ("ENTRY %f () -> f32[] {\n  ROOT %x = what is this\n}\n", "no opcode"),
    ],
)
def test_what_is_no_program_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read_program(text)
    assert "\n" not in str(error.value)


def loop(
    test: str = "compare(%i, %bound), direction=LT",
    bound: str = "constant(44)",
    start: str = "constant(0)",
    step: str = "add(%i, %one)",
    attributes: str = "",
) -> str:
    """A program whose loop reads 4 KiB in each trip."""
    return f"""HloModule m

%condition (c: (s32[], s32[], f32[1024])) -> pred[] {{
  %c = (s32[]{{:S(6)}}, s32[]{{:S(6)}}, f32[1024]{{0}}) parameter(0)
  %i = s32[]{{:S(6)}} get-tuple-element(%c), index=0
  %n = s32[]{{:S(6)}} get-tuple-element(%c), index=1
  %bound = s32[]{{:S(6)}} {bound}
  ROOT %test = pred[]{{:S(6)}} {test}
}}

%body (b: (s32[], s32[], f32[1024])) -> (s32[], s32[], f32[1024]) {{
  %b = (s32[]{{:S(6)}}, s32[]{{:S(6)}}, f32[1024]{{0}}) parameter(0)
  %j = s32[]{{:S(6)}} get-tuple-element(%b), index=0
  %i = s32[]{{:S(6)}} copy(%j)
  %m = s32[]{{:S(6)}} get-tuple-element(%b), index=1
  %x = f32[1024]{{0}} get-tuple-element(%b), index=2
  %one = s32[]{{:S(6)}} constant(1)
  %two = s32[]{{:S(6)}} constant(2)
  %next = s32[]{{:S(6)}} {step}
  %read = f32[]{{:S(1)}} negate(%x)
  ROOT %r = (s32[]{{:S(6)}}, s32[]{{:S(6)}}, f32[1024]{{0}}) tuple(%next, %m, %x)
}}

ENTRY %main (x: f32[1024], data: s32[]) -> (s32[], s32[], f32[1024]) {{
  %x = f32[1024]{{0}} parameter(0)
  %data = s32[]{{:S(6)}} parameter(1)
  %seven = s32[]{{:S(6)}} constant(7)
  %start = s32[]{{:S(6)}} {start}
  %t = (s32[]{{:S(6)}}, s32[]{{:S(6)}}, f32[1024]{{0}}) tuple(%start, %seven, %x)
  ROOT %w = (s32[]{{:S(6)}}, s32[]{{:S(6)}}, f32[1024]{{0}}) while(%t), condition=%condition, \
body=%body{attributes}
}}
"""


@pytest.mark.parametrize(
    ("changes", "trips"),
    [
        ({}, 44),
        ({"start": "constant(4)"}, 40),
        ({"start": "constant(-1)"}, 45),
        ({"start": "constant(44)"}, 0),
        ({"start": "constant(50)"}, 0),
        ({"step": "add(%two, %i)"}, 22),
        ({"step": "add(%two, %i)", "start": "constant(1)"}, 22),
        ({"step": "add(%i, %m)"}, 7),
        ({"test": "compare(%i, %bound), direction=LE"}, 45),
        ({"test": "compare(%bound, %i), direction=GT"}, 44),
        ({"test": "compare(%i, %bound), direction=NE"}, 44),
        ({"test": "compare(%i, %n), direction=LT"}, 7),
        (
            {
                "test": "compare(%i, %bound), direction=GE",
                "start": "constant(50)",
                "step": "subtract(%i, %one)",
            },
            7,
        ),
        ({"attributes": ', backend_config={"known_trip_count":{"n":"3"}}'}, 3),
    ],
)
def test_trips_of_a_loop(changes: dict[str, str], trips: int) -> None:
    assert read_program(loop(**changes)).hbm_bytes() == trips * 4096


@pytest.mark.parametrize(
    "changes",
    [
        {"start": "copy(%data)"},
        {"step": "multiply(%i, %two)"},
        {"step": "add(%i, %i)"},
        {"test": "compare(%i, %bound), direction=GT"},
        {"test": "and(%i, %bound)"},
        {"bound": "negate(%n)"},
    ],
)
def test_a_loop_of_unknown_length_is_asked_for_one_trip(changes: dict[str, str]) -> None:
    program = read_program(loop(**changes))
    for ask in (program.hbm_bytes, program.collectives, lambda: program.copies(1)):
        with pytest.raises(InputError, match="loop_body"):
            ask()
    assert program.loop_body().hbm_bytes() == 4096


def test_there_must_be_one_loop_of_unknown_length() -> None:
    with pytest.raises(InputError, match="0 loops of unknown length"):
        read_program(loop()).loop_body()
