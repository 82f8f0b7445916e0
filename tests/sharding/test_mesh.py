"""The mesh that was asked for, the mesh that fits, and a clear no to any other."""

import dataclasses
from typing import Any

import jax
import pytest

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.presets import PRESETS
from neox_eqx.sharding.mesh import make_mesh, model_sizes
from tests.unchecked import unchecked

FOUR_HEADS = GPTNeoXConfig(96, 32, 2, 4, 128)
SIX_HEADS = GPTNeoXConfig(96, 48, 2, 6, 192)


def sizes(config: GPTNeoXConfig, text: str = "auto", devices: int = 8) -> tuple[int, int]:
    mesh = make_mesh(config, text, jax.devices()[:devices])
    assert mesh.axis_names == ("data", "model")
    return mesh.shape["data"], mesh.shape["model"]


def test_the_sizes_that_are_asked_for() -> None:
    assert sizes(FOUR_HEADS, "data=2,model=4") == (2, 4)
    assert sizes(FOUR_HEADS, " model = 2 , data=4") == (4, 2)
    assert sizes(FOUR_HEADS, "data=1,model=1") == (1, 1)


def test_an_axis_that_is_not_named_takes_the_devices_that_are_left() -> None:
    assert sizes(FOUR_HEADS, "model=2") == (4, 2)
    assert sizes(FOUR_HEADS, "data=4") == (4, 2)


def test_auto_splits_the_model_as_far_as_it_divides_and_the_rows_over_the_rest() -> None:
    assert sizes(FOUR_HEADS) == (2, 4)
    assert sizes(SIX_HEADS) == (4, 2)
    assert sizes(SIX_HEADS, devices=6) == (1, 6)
    assert sizes(dataclasses.replace(FOUR_HEADS, num_attention_heads=1)) == (8, 1)
    assert sizes(FOUR_HEADS, devices=1) == (1, 1)


def test_heads_are_added_where_that_is_asked_for() -> None:
    assert sizes(FOUR_HEADS, "model=8,heads=8") == (1, 8)
    assert sizes(SIX_HEADS, "data=2,model=4,heads=8,layout=2d") == (2, 4)


def test_the_hidden_size_must_divide_where_it_is_split() -> None:
    odd = dataclasses.replace(FOUR_HEADS, hidden_size=36)
    assert sizes(odd, "data=4,model=2,layout=2d") == (4, 2)
    with pytest.raises(InputError, match="data=8 does not divide the hidden size of 36"):
        sizes(odd, "data=8,model=1,layout=2d")


def test_neighbours_along_model_are_neighbours_in_number() -> None:
    mesh = make_mesh(FOUR_HEADS, "data=2,model=4", jax.devices()[::-1])
    assert [[device.id for device in row] for row in mesh.devices] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_the_sizes_that_divide_a_model() -> None:
    assert model_sizes(PRESETS["polyglot-ko-12.8b"], 16) == [1, 2, 4, 5, 8, 10]
    assert model_sizes(PRESETS["gpt-neox-20b"], 16) == [1, 2, 4, 8, 16]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model=3", "model=3 does not divide the 4 heads .* over 8 devices; model can be 1, 2, 4$"),
        ("model=8", "model=8 does not divide the 4 heads"),
        ("data=3,model=4", "data=3,model=4 is a mesh of 12 devices, and there are 8"),
        ("data=9", "data=9,model=1 is a mesh of 9 devices, and there are 8"),
        ("data=3", "data=3: data=3,model=2 is a mesh of 6 devices, and there are 8"),
        ("data=1", "data=1: model=8 does not divide the 4 heads"),
        ("", "the mesh '' is neither auto nor of the form data=2,model=4"),
        ("model=0", "neither auto nor"),
        ("model=2,model=2", "neither auto nor"),
        ("model=2,", "neither auto nor"),
        ("tensor=2", "neither auto nor"),
        ("model=9999999", "neither auto nor"),
        ("2x4", "neither auto nor"),
        ("layout=2d", "names neither data nor model"),
        ("model=4,layout=3d", "neither auto nor"),
        ("model=8,heads=3", "the model has 4 heads already"),
        ("model=8,heads=12", "model=8 does not divide the 12 heads"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_mesh(FOUR_HEADS, text)


@dataclasses.dataclass(frozen=True)
class Elsewhere:
    """A device of one of several hosts."""

    id: int
    process_index: int


def test_no_device_of_several_hosts_may_be_left_idle() -> None:
    devices: Any = [Elsewhere(number, number // 4) for number in range(8)]
    with unchecked(), pytest.raises(InputError, match="is a mesh of 4 devices, and there are 8"):
        make_mesh(FOUR_HEADS, "data=1,model=4", devices)
    # On one host it is what someone may want.
    assert make_mesh(FOUR_HEADS, "data=1,model=4").size == 4
