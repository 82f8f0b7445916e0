"""Slices are found by the names under which they are rented."""

import re

import pytest

from neox_eqx.errors import InputError
from neox_eqx.planning.chips import CHIPS, Topology

# As the tables of cloud.google.com/tpu/docs and of GKE list them.
PUBLISHED = """
v5litepod-1 1x1, v5litepod-4 2x2, v5litepod-8 2x4, v5litepod-16 4x4, v5litepod-32 4x8
v5litepod-64 8x8, v5litepod-128 8x16, v5litepod-256 16x16, v5e-1 1x1, v5e-16 4x4, v5e-256 16x16
v6e-1 1x1, v6e-4 2x2, v6e-8 2x4, v6e-16 4x4, v6e-32 4x8, v6e-64 8x8, v6e-128 8x16, v6e-256 16x16
v4-8 2x2x1, v4-16 2x2x2, v4-32 2x2x4, v4-64 2x4x4, v4-128 4x4x4, v4-256 4x4x8, v4-512 4x8x8
v4-1024 8x8x8, v4-1536 8x8x12, v4-2048 8x8x16, v4-4096 8x16x16
v5p-8 2x2x1, v5p-16 2x2x2, v5p-32 2x2x4, v5p-64 2x4x4, v5p-128 4x4x4, v5p-256 4x4x8
v5p-384 4x4x12, v5p-512 4x8x8, v5p-640 4x4x20, v5p-768 4x8x12, v5p-896 4x4x28, v5p-1024 8x8x8
v5p-1152 4x12x12, v5p-1280 4x8x20, v5p-1536 8x8x12, v5p-1792 4x8x28, v5p-1920 4x12x20
v5p-2048 8x8x16, v5p-2304 8x12x12, v5p-2560 8x8x20, v5p-3072 8x12x16, v5p-3840 8x12x20
v5p-4096 8x16x16, v5p-5120 8x16x20, v5p-6144 12x16x16, v5p-7680 12x16x20, v5p-8064 12x12x28
v5p-8192 16x16x16, v5p-10240 16x16x20, v5p-10752 12x16x28, v5p-17920 16x20x28
"""
NAMES = dict(re.findall(r"(\S+) (\d+x[\dx]+)", PUBLISHED))


def test_a_name_is_the_shape_that_is_published_for_it() -> None:
    found = {name: Topology.parse(name) for name in NAMES}
    assert {name: one.name.split(":")[1] for name, one in found.items()} == NAMES
    for name, one in found.items():
        chip, number = name.replace("v5litepod", "v5e").split("-")
        assert one.chip is CHIPS[chip]
        assert int(number) == one.count * (2 if chip in ("v4", "v5p") else 1)
        assert one.rented_as == name
    assert Topology.parse("v4:2x2x4").rented_as is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "v3-8",
            "v3-8 is a slice of TPU v3; plans are made for v4, v5e, v5p and v6e alone",
        ),
        ("v2-512", "v2-512 is a slice of TPU v2"),
        ("v4-24", "there is no slice v4-24: those of v4 have 8, 16, 32, 64 and multiples of 128 T"),
        ("v4-9", "TensorCores, two a chip; or give a shape, as v4:2x2x4"),
        ("v5e-12", "those of v5e have 1, 4, 8, 16, 32, 64, 128, 256 chips; or give a shape, as"),
        ("v5litepod-2", "those of v5litepod have 1, 4, 8"),
        ("v5p-0", "there is no slice v5p-0"),
        ("v4-17920", "is larger than a pod of v4, 16x16x16"),
        ("v9-8", "'v9-8' is not of the form v5e:4x4 or v5e-16; the chips are v4, v5e, v5p, v6e"),
    ],
)
def test_a_name_without_a_slice_is_answered_with_what_there_is(name: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        Topology.parse(name)
