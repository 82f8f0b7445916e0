"""The matrix products of a training step, each timed alone by JAX and by PyTorch."""

import dataclasses
import math
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.training.update.recipe import Recipe

# A layer's product and those of its two gradients, which JAX and PyTorch spell alike.
FORMS: dict[str, Callable[[Any, Any], Any]] = {
    "output": lambda x, weight: x @ weight.mT,
    "gradient by input": lambda output, weight: output @ weight,
    "gradient by weight": lambda output, x: output.mT @ x,
}


@dataclasses.dataclass(frozen=True)
class Product:
    """A product of one shape, and how often it is in a step of ours and of PyTorch's."""

    name: str
    form: str
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    flops: int
    ours: int
    theirs: int


def of_step(config: GPTNeoXConfig, rows: int, length: int, recipe: Recipe) -> list[Product]:
    """The products of a step. PyTorch's logits, too, count in chunks, and its attention in parts.

    With remat a layer's products are there twice, but for those that only its output needs.
    """
    size, mlp = config.hidden_size, config.intermediate_size
    layers, again = config.num_hidden_layers, recipe.remat
    tokens, heads = rows * length, (rows, config.num_attention_heads)
    chunk = min(recipe.loss_chunk, length)
    mlp_needs_attention = again and not config.use_parallel_residual
    return [
        *_layer("query_key_value", (), tokens, size, 3 * size, layers, again),
        *_layer("scores", heads, length, config.head_dim, length, layers, again),
        *_layer("mixed values", heads, length, length, config.head_dim, layers, again),
        *_layer("dense", (), tokens, size, size, layers, mlp_needs_attention),
        *_layer("dense_h_to_4h", (), tokens, size, mlp, layers, again),
        *_layer("dense_4h_to_h", (), tokens, mlp, size, layers, False),
        *_layer("logits", (), rows * chunk, size, config.vocab_size, -(-length // chunk), False),
    ]


def _layer(
    name: str, batch: tuple[int, ...], rows: int, inner: int, outer: int, count: int, again: bool
) -> list[Product]:
    x, weight, output = (*batch, rows, inner), (*batch, outer, inner), (*batch, rows, outer)
    operands = ((x, weight), (output, weight), (output, x))
    flops = 2 * math.prod(batch) * rows * inner * outer
    return [
        Product(name, form, pair, flops, count * (2 if again and form == "output" else 1), count)
        for form, pair in zip(FORMS, operands, strict=True)
    ]


def timed(products: list[Product], rounds: int) -> list[dict[str, Any]]:
    """Each product with the medians of its seconds by JAX and PyTorch, in turn."""
    import torch  # only here: it takes seconds to import

    torch.set_num_threads(len(os.sched_getaffinity(0)))

    def one(product: Product) -> dict[str, Any]:
        generator = np.random.default_rng(0)
        arrays = [generator.standard_normal(shape, np.float32) for shape in product.shapes]
        form = FORMS[product.form]
        by_jax, by_torch = jax.jit(form), [torch.from_numpy(array) for array in arrays]
        ours = [jnp.asarray(array) for array in arrays]
        calls = {
            "ours": lambda: by_jax(*ours).block_until_ready(),
            "theirs": lambda: form(*by_torch),
        }
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(rounds + 1):
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - start)
        medians = {name: statistics.median(own[1:]) for name, own in seconds.items()}
        return {**dataclasses.asdict(product), "seconds": medians}

    return [one(product) for product in products]


def shares(products: list[dict[str, Any]], ours: float, theirs: float) -> dict[str, float]:
    """Seconds of the products in a step of each, and what they say about the two steps' seconds.

    `ratio_without` compares what is not products, and `ratio_with_theirs` the whole steps if our
    products took as long as PyTorch's do.
    """
    own = sum(product["ours"] * product["seconds"]["ours"] for product in products)
    swapped = sum(product["ours"] * product["seconds"]["theirs"] for product in products)
    other = sum(product["theirs"] * product["seconds"]["theirs"] for product in products)
    return {
        "ours": own,
        "ours_by_pytorch": swapped,
        "theirs": other,
        "ratio_without": (theirs - other) / (ours - own),
        "ratio_with_theirs": theirs / (ours - own + swapped),
    }


def print_products(products: list[dict[str, Any]], ours: float, theirs: float) -> None:
    print("product                                  in a step      GFLOP/s of XLA and of PyTorch")
    for product in products:
        name = f"{product['name']}, {product['form']}"
        rates = (product["flops"] / product["seconds"][key] / 1e9 for key in ("ours", "theirs"))
        counts = f"{product['ours']} and {product['theirs']}"
        print(f"{name:40} {counts:14}" + "".join(f"{rate:8.0f}" for rate in rates))
    found = shares(products, ours, theirs)
    print(
        f"products of our step: {found['ours']:.3f} s of {ours:.3f} s "
        f"({found['ours'] / ours:.0%}); by PyTorch {found['ours_by_pytorch']:.3f} s\n"
        f"products of PyTorch's step: {found['theirs']:.3f} s of {theirs:.3f} s "
        f"({found['theirs'] / theirs:.0%})\n"
        f"times faster than PyTorch in all but products: {found['ratio_without']:.2f}\n"
        f"times faster with PyTorch's products: {found['ratio_with_theirs']:.2f}"
    )
