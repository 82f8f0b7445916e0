"""What fusions touch, of such kinds as the compiler would not write on request."""

import pytest

from neox_eqx.planning.program import read_program

KIB = 2**10


def test_a_slice_of_a_slice_within_a_fusion_reads_the_inner_one() -> None:
    program = read_program("""HloModule m

%layer (p: f32[6,1024,128], i: s32[]) -> f32[1024,128] {
  %p = f32[6,1024,128]{2,1,0:T(8,128)} parameter(0)
  %i = s32[]{:S(6)} parameter(1)
  %l = f32[1,1024,128]{2,1,0:T(8,128)} dynamic-slice(%p, %i, %i, %i)
  ROOT %b = f32[1024,128]{1,0:T(8,128)} bitcast(%l)
}

%rows (q: f32[6,1024,128], j: s32[]) -> f32[16,128] {
  %q = f32[6,1024,128]{2,1,0:T(8,128)} parameter(0)
  %j = s32[]{:S(6)} parameter(1)
  %f = f32[1024,128]{1,0:T(8,128)} fusion(%q, %j), kind=kLoop, calls=%layer
  ROOT %s = f32[16,128]{1,0:T(8,128)S(1)} slice(%f), slice={[8:24], [0:128]}
}

ENTRY %main (x: f32[6,1024,128], k: s32[]) -> f32[16,128] {
  %x = f32[6,1024,128]{2,1,0:T(8,128)} parameter(0)
  %k = s32[]{:S(6)} parameter(1)
  ROOT %y = f32[16,128]{1,0:T(8,128)S(1)} fusion(%x, %k), kind=kLoop, calls=%rows
}
""")
    assert program.hbm_bytes() == 16 * 128 * 4


@pytest.mark.parametrize(("reader", "read"), [("", 0), (", %sum", 64 * KIB)])
def test_what_is_written_in_place_is_read_where_it_is_used_besides(reader: str, read: int) -> None:
    kept = "f32[16,1024]{1,0:T(8,128)}"
    total = ", f32[]{:S(6)}" if reader else ""
    used = "%sum = f32[]{:S(6)} reduce(%new, %zero), to_apply=%add" if reader else ""
    program = read_program(f"""HloModule m

%fused (p: f32[16,1024], u: f32[8,1024], i: s32[]) -> f32[16,1024] {{
  %p = {kept} parameter(0)
  %u = f32[8,1024]{{1,0:T(8,128)S(1)}} parameter(1)
  %i = s32[]{{:S(6)}} parameter(2)
  %new = {kept} dynamic-update-slice(%p, %u, %i, %i)
  %zero = f32[] constant(0)
  {used}
  ROOT %t = ({kept}{total}) tuple(%new{reader})
}}

ENTRY %main (x: f32[16,1024], u: f32[8,1024], i: s32[]) -> f32[16,1024] {{
  %x = {kept} parameter(0)
  %u.1 = f32[8,1024]{{1,0:T(8,128)S(1)}} parameter(1)
  %i.1 = s32[]{{:S(6)}} parameter(2)
  ROOT %f = ({kept}{total}) fusion(%x, %u.1, %i.1), kind=kLoop, calls=%fused, \
backend_config={{"aliasing_operands":{{"lists":[{{"indices":["0","3"]}}]}}}}
}}
""")
    (cost,) = program.hbm_by_instruction()
    assert (cost.read_bytes, cost.written_bytes) == (read, 32 * KIB)


def test_a_view_in_other_tiles_is_free() -> None:
    program = read_program("""HloModule m

%retile (p: s8[64,128]) -> s8[64,128] {
  %p = s8[64,128]{1,0:T(32,128)(4,1)} parameter(0)
  ROOT %c = s8[64,128]{1,0:T(8,128)(4,1)} copy(%p)
}

ENTRY %main (x: s8[64,128]) -> s8[64,128] {
  %x = s8[64,128]{1,0:T(32,128)(4,1)} parameter(0)
  %view = s8[64,128]{1,0:T(8,128)(4,1)} fusion(%x), kind=kLoop, \
output_to_operand_aliasing={{}: (0, {})}, calls=%retile
  ROOT %y = s8[64,128]{1,0:T(8,128)(4,1)} negate(%view)
}
""")
    assert program.hbm_bytes() == 2 * 64 * 128
    assert program.copies(at_least=1) == []
