"""Times the products of the library for CPUs beside reading memory and beside XLA in float32.

python benchmarks/cpu_products.py --shapes 3072x768 4096x1024 --json products.json
"""

import dataclasses
import functools
import json
import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from neox_eqx import InputError
from neox_eqx.command_line import run
from neox_eqx.model.int8 import quantize_rows
from neox_eqx.model.kernels.any import dot
from neox_eqx.native import library, products, tiles
from neox_eqx.shown import shown

FORMS = ("float16", "bfloat16", "int8", "tiles8", "tiles4")
Arrays = tuple[jax.Array, ...]


@dataclasses.dataclass(frozen=True)
class Options:
    """Time products of few and many rows with weights that no cache holds."""

    shapes: tuple[str, ...] = ("3072x768", "768x3072")
    """Of weights, as OUTxIN."""
    rows: tuple[int, ...] = (1, 2, 4, 8, 16, 128)
    """Of x."""
    forms: tuple[str, ...] = FORMS
    """float16, bfloat16, int8, and 8 and 4 bits in groups: tiles8, tiles4."""
    megabytes: int = 256
    """Of weights that are read in turn."""
    rounds: int = 9
    """Each times all once, in turn."""
    json: Path | None = None
    """Write the figures here too."""


def main(options: Options) -> None:
    name = library.instruction_set()
    if name is None:
        raise InputError("the library for CPUs is not to be had")
    report: dict[str, Any] = {"instruction_set": name, "products": []}
    for shape in options.shapes:
        weights = _weights(shape, options)
        for rows in options.rows:
            for figures in _figures(weights, rows, options.rounds):
                report["products"].append({"shape": shape, "rows": rows} | figures)
                _print(report["products"][-1])
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def _print(figures: dict[str, Any]) -> None:
    print(
        f"{figures['shape']} rows {figures['rows']:4} {figures['form']:9}"
        f"{figures['seconds'] * 1e6:9.0f} us {figures['bytes_per_second'] / 1e9:6.1f} GB/s, "
        f"{figures['share_of_reading']:.2f} of reading, "
        f"{figures['times_float32']:.2f} of float32's speed",
        flush=True,
    )


def _weights(shape: str, options: Options) -> dict[str, list[Arrays]]:
    """In each form so many copies of a weight that they are the bytes that were asked for."""
    if not re.fullmatch(r"[1-9]\d{0,6}x[1-9]\d{0,6}", shape):
        raise InputError(f"--shapes {shown(shape)} is not as 3072x768")
    size = tuple(map(int, shape.split("x")))
    values = np.random.default_rng(0).standard_normal(size, np.float32)
    found = {}
    for form in ("float32", *options.forms):
        if form not in ("float32", *FORMS):
            raise InputError(f"--forms {shown(form)} is none of {', '.join(FORMS)}")
        arrays = _in_form(form, values)
        count = max(2, options.megabytes * 10**6 // sum(array.nbytes for array in arrays))
        found[form] = [tuple(jnp.array(array) for array in arrays) for _ in range(count)]
    return found


def _in_form(form: str, values: np.ndarray) -> tuple[np.ndarray, ...]:
    if form == "int8":
        return quantize_rows(values)
    if not form.startswith("tiles"):
        return (values.astype(jnp.dtype(form)),)
    bits = int(form[-1])
    out, size = values.shape
    full = np.pad(values, ((0, 0), (0, -size % tiles.GROUP)))
    groups = full.reshape(out, -1, tiles.GROUP)
    scale = (abs(groups).max(-1) / (2 ** (bits - 1) - 1)).astype(np.float16)
    codes = (groups / scale[..., None]).round() + 2 ** (bits - 1)
    codes = codes.clip(0, 2**bits - 1).reshape(full.shape).astype(np.uint8)
    return tuple(np.asarray(array) for array in tiles.tiled(codes, scale, bits=bits))


def _product(form: str, out: int) -> Callable[..., jax.Array]:
    if form.startswith("tiles"):
        return functools.partial(products.dot_tiles, out=out)
    known: dict[str, Callable[..., jax.Array]] = {"float32": dot, "int8": products.dot_int8}
    return known.get(form, products.dot_16_bits)


def _figures(weights: dict[str, list[Arrays]], rows: int, rounds: int) -> list[dict[str, Any]]:
    """Medians of a product's seconds, each form's beside a program that only reads its weights."""
    out, size = weights["float32"][0][0].shape
    x = jnp.asarray(np.random.default_rng(1).standard_normal((rows, size), np.float32))
    calls: dict[tuple[str, str], Callable[[], Any]] = {}
    for form, copies in weights.items():
        product = _product(form, out)
        if form == "float32":
            # One by one: XLA would compute many products in one program as something else.
            alone = jax.jit(product)
            calls[form, "product"] = functools.partial(_each, alone, x, copies)
            continue
        together = jax.jit(lambda x, copies, product=product: [product(x, *own) for own in copies])
        calls[form, "product"] = functools.partial(together, x, copies)
        reading = jax.jit(lambda copies: [products.read(own[0]) for own in copies])
        calls[form, "read"] = functools.partial(reading, copies)
    seconds = _medians(calls, rounds)
    plain = seconds["float32", "product"] / len(weights["float32"])
    report = []
    for form in weights:
        if form != "float32":
            own = seconds[form, "product"] / len(weights[form])
            size = sum(array.nbytes for array in weights[form][0])
            read = weights[form][0][0].nbytes * len(weights[form]) / seconds[form, "read"]
            report.append(
                {
                    "form": form,
                    "seconds": own,
                    "bytes_per_second": size / own,
                    "read_bytes_per_second": read,
                    "share_of_reading": size / own / read,
                    "times_float32": plain / own,
                }
            )
    return report


def _each(product: Callable[..., Any], x: jax.Array, copies: Sequence[Arrays]) -> list[Any]:
    return [product(x, *own) for own in copies]


def _medians(calls: dict[Any, Callable[[], Any]], rounds: int) -> dict[Any, float]:
    seconds: dict[Any, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(own[1:]) for name, own in seconds.items()}


if __name__ == "__main__":
    run(main, Options)
