"""The library's attention: that of float64 whatever is seen; a row has its bits anywhere."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neox_eqx.model.int8_cache import Int8KV
from neox_eqx.model.keys_values import KV, KeysValues
from neox_eqx.model.visible import Visible
from neox_eqx.native import attention, library

RANDOM = np.random.default_rng(0)
ROWS, HEADS = 2, 3
# Measured 1.7e-6 of values up to 4: float32 sums of 256 products make a score.
TOLERANCE = 4e-6


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Case:
    """A batch: queries, what is seen, and the keys and values of all segments."""

    query: jax.Array
    visible: Visible
    segments: tuple[KeysValues, ...]

    def output(self) -> np.ndarray:
        slots = [kv.for_library(self.query.shape[-1]) for kv in self.segments]
        past = list(zip(slots[:-1], self.visible.past, strict=True))
        return np.asarray(_attend(self.query, self.visible.ids, past, slots[-1]))

    def exact(self) -> np.ndarray:
        """By float64, with 0 for a query that sees nothing."""
        sees = np.asarray(self.visible.mask())[:, None]
        key, value = (
            np.concatenate(each, 2) for each in zip(*map(self._wide, self.segments), strict=True)
        )
        scores = (
            np.asarray(self.query, np.float64) @ key.swapaxes(2, 3) / self.query.shape[-1] ** 0.5
        )
        weights = np.exp(np.where(sees, scores - scores.max(-1, keepdims=True), -np.inf))
        total = weights.sum(-1, keepdims=True)
        return weights @ value / np.where(total, total, 1)

    def _wide(self, kv: KeysValues) -> tuple[np.ndarray, np.ndarray]:
        arrays = [np.asarray(x, np.float64) for x in kv.for_library(self.query.shape[-1]) or ()]
        key, value, *scales = arrays
        if scales:
            key, value = key * scales[0], value * scales[1]
        each = len(self.query) // len(key)
        return np.repeat(key, each, 0), np.repeat(value, each, 0)


_attend = jax.jit(attention.attend)


def segment(rows: int, slots: int, size: int, kind: str = "float32") -> KeysValues:
    key, value = (jnp.asarray(normal(rows, HEADS, slots, size)) for _ in range(2))
    if kind == "int8":
        return Int8KV.of(key, value, 1)
    return KV(key.astype(kind), value.astype(kind))


def case(
    length: int, size: int, ids: np.ndarray, *past: tuple[np.ndarray, int], kind: str = "float32"
) -> Case:
    """`past` is what is seen of each segment, and how many rows it has."""
    segments = [segment(rows, seen.shape[1], size, kind) for seen, rows in past]
    new = segment(len(ids), length, size, "float32" if kind == "int8" else kind)
    visible = Visible(jnp.asarray(ids, jnp.int32), tuple(jnp.asarray(seen) for seen, _ in past))
    return Case(jnp.asarray(normal(len(ids), HEADS, length, size)), visible, (*segments, new))


def some(rows: int, slots: int) -> np.ndarray:
    return RANDOM.random((rows, slots)) < 0.7


def ones(length: int, rows: int = ROWS) -> np.ndarray:
    return np.ones((rows, length), np.int32)


def padded(length: int) -> np.ndarray:
    """One row with padding on the left, over more than a tile, and one with gaps."""
    return np.stack([np.arange(length) >= length * 3 // 4, RANDOM.random(length) < 0.8])


def documents(length: int) -> np.ndarray:
    """Documents of all lengths, with padding between and after them."""
    ids = np.sort(RANDOM.integers(1, 5, (ROWS, length)), 1)
    ids[:, length // 3 : length // 3 + 5] = 0
    ids[1, -9:] = 0
    return ids


KINDS = ("float32", "float16", "bfloat16", "int8")
"""Of a past's numbers, in the library's order."""


def past_case(kind: str) -> Case:
    """Padded rows with a past in numbers of this kind, which the second two rows share."""
    seen = (some(4, 70), 2)
    own = case(80, 20, np.tile(padded(80), (2, 1)), seen, kind=kind)
    *past, new = own.segments
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), new)
    return dataclasses.replace(own, segments=(*past, wide))


@functools.cache
def cases() -> dict[str, Case]:
    prefix = np.ones((4, 70), bool)
    of_free_slots = np.arange(190) < np.array([[150], [3]])
    return {
        "a token": case(1, 64, ones(1)),
        "a tile": case(64, 64, ones(64)),
        "some tiles and some tokens": case(200, 64, ones(200)),
        "padding": case(130, 64, padded(130)),
        "documents": case(200, 64, documents(200)),
        "nothing but padding": case(70, 64, np.zeros((ROWS, 70))),
        "a past with free slots": case(90, 64, ones(90), (of_free_slots, ROWS)),
        "a past of which nothing is seen, and none": case(
            40, 64, ones(40), (np.zeros((ROWS, 80), bool), ROWS), (some(ROWS, 0), ROWS)
        ),
        "a past with gaps, of padded rows": case(70, 64, padded(70), (some(ROWS, 140), ROWS)),
        "a prefix of all rows and one of neighbours": case(
            65, 64, ones(65, 4), (prefix, 1), (some(4, 100), 2)
        ),
        **{f"heads of {size}": case(75, size, padded(75)) for size in (8, 13, 80, 96, 128, 256)},
        **{
            f"{kind}": case(80, 20, ones(80), (some(ROWS, 70), ROWS), kind=kind)
            for kind in ("float16", "bfloat16", "int8")
        },
    }


@pytest.mark.parametrize("name", cases())
def test_it_attends_as_float64_does(instruction_sets: list[str], name: str) -> None:
    own = cases()[name]
    for each in instruction_sets:
        library.use(each)
        np.testing.assert_allclose(own.output(), own.exact(), atol=TOLERANCE, rtol=0, err_msg=each)


def alone(own: Case, row: int) -> Case:
    """A row of a case by itself."""
    rows, visible = len(own.query), own.visible

    def of(x: jax.Array) -> jax.Array:
        at = row * len(x) // rows
        return x[at : at + 1]

    seen = tuple(map(of, visible.past))
    return Case(of(own.query), Visible(of(visible.ids), seen), jax.tree.map(of, own.segments))


@pytest.mark.parametrize("name", ["documents", "a prefix of all rows and one of neighbours"])
def test_a_row_has_the_same_bits_alone_and_with_any_threads(
    instruction_sets: list[str], name: str
) -> None:
    own = cases()[name]
    for each in instruction_sets:
        library.use(each)
        together = own.output()
        for row in range(len(together)):
            np.testing.assert_array_equal(alone(own, row).output()[0], together[row], each)
        library.use(each, threads=1)
        np.testing.assert_array_equal(own.output(), together, each)


def test_instruction_sets_with_fused_products_have_the_same_bits(
    instruction_sets: list[str],
) -> None:
    own, outputs = cases()["documents"], []
    for each in set(instruction_sets) - {"plain"}:
        library.use(each)
        outputs.append(own.output())
    for other in outputs[1:]:
        np.testing.assert_array_equal(other, outputs[0])


def test_what_no_query_of_a_block_sees_is_not_computed(instruction_sets: list[str]) -> None:
    """A weight of 0 times NaN is NaN: the numbers stay real where the slots were never read."""
    seen = np.arange(200) < 120
    own = case(200, 8, ones(200, 1), (seen[None], 1))
    past, new = own.segments
    late = (np.arange(200) >= 128)[:, None]
    past, new = (jax.tree.map(lambda x: jnp.where(late, jnp.nan, x), kv) for kv in (past, new))
    for each in instruction_sets:
        library.use(each)
        output = dataclasses.replace(own, segments=(past, new)).output()
        assert np.isfinite(output[:, :, :128]).all()
        np.testing.assert_array_equal(output[:, :, :128], own.output()[:, :, :128])
        assert np.isnan(output[:, :, 128:]).all()


def test_what_is_no_number_shows_in_its_own_row(instruction_sets: list[str]) -> None:
    own = cases()["padding"]
    key = own.segments[0].key.at[0, 1, 100, 5].set(jnp.nan)
    broken = dataclasses.replace(own, segments=(KV(key, own.segments[0].value),))
    for each in instruction_sets:
        library.use(each)
        output, whole = broken.output(), own.output()
        np.testing.assert_array_equal(output[1], whole[1])
        np.testing.assert_array_equal(output[0, ::2], whole[0, ::2])
        is_nan = np.isnan(output[0, 1]).all(-1)
        assert (is_nan == (np.arange(130) >= 100)).all()


@pytest.mark.parametrize(("score", "weight"), [(1e30, 1.0), (-1e30, 0.0), (150.0, 1.0)])
def test_scores_of_any_size_are_weighed(
    instruction_sets: list[str], score: float, weight: float
) -> None:
    """Two slots, one with a score of 0."""
    query = jnp.zeros((1, 1, 2, 4)).at[..., 0].set(2)
    key = jnp.zeros((1, 1, 2, 4)).at[0, 0, 1, 0].set(score)
    value = jnp.zeros((1, 1, 2, 4)).at[0, 0, 1].set(1)
    own = Case(query, Visible(jnp.ones((1, 2), jnp.int32)), (KV(key, value),))
    for each in instruction_sets:
        library.use(each)
        np.testing.assert_array_equal(own.output()[0, 0], [[0] * 4, [weight] * 4])
