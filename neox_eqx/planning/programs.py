"""The programs that a pod would run, compiled from shapes alone."""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from neox_eqx.checkpoint.fit import arranged_shapes
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.generation.decoding.loop import decode, double_slots, read_prompts
from neox_eqx.generation.decoding.sampling import Sampler
from neox_eqx.generation.lengths import bucket
from neox_eqx.generation.options.generation_options import GenerationOptions
from neox_eqx.generation.vocabulary import Vocabulary
from neox_eqx.model.formats import Form, form_of
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.segment import Segment
from neox_eqx.planning.message import Workload
from neox_eqx.sharding.mesh import Arrangement
from neox_eqx.sharding.rules import LAYOUTS, parameter_shardings, sharding
from neox_eqx.training.data.batch import Batch
from neox_eqx.training.update.recipe import Recipe
from neox_eqx.training.update.state import TrainState, abstract_step
from neox_eqx.training.update.step import train_step


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled program, the shapes of its arguments, and the seconds that compiling took."""

    program: Any
    arguments: tuple[Any, ...]
    seconds: float


def abstract_model(
    config: GPTNeoXConfig, mesh: Mesh, asked: Arrangement, dtype: str, quantize: Form | None
) -> GPTNeoX:
    """The model as `load` would place it on `mesh`, with shapes in place of arrays."""
    form = None if quantize is None else form_of(quantize, "tpu")
    shapes = arranged_shapes(config, jnp.dtype(dtype), mesh, asked, stacked=True, quantize=form)
    shardings = parameter_shardings(shapes, mesh, LAYOUTS[shapes.layout])
    return jax.tree.map(_placed, shapes, shardings)


def compile_prefill(model: GPTNeoX, load: Workload) -> Compiled:
    arguments = _prefill_arguments(model, load)
    return _compile(read_prompts, *arguments)


def compile_decode(model: GPTNeoX, load: Workload) -> Compiled:
    """The decode step for the last tokens, when the cache has its full length."""
    arguments = _prefill_arguments(model, load)
    prompt, state = jax.eval_shape(read_prompts, *arguments)
    while state.rows.slots < load.gen_len:
        state = jax.eval_shape(double_slots, state)
    past, state = _on_mesh(((prompt,), state), model.mesh)
    until = _everywhere(jnp.int32(0), model.mesh)
    return _compile(decode, model, past, state, arguments[-1], until)


def abstract_update(
    config: GPTNeoXConfig, mesh: Mesh, dtype: str, load: Workload
) -> tuple[TrainState, Batch, Recipe]:
    """The arguments of an update of all parameters by a batch of texts of `prompt_len` tokens."""
    recipe = Recipe(steps=1, compute_dtype=dtype)
    return *abstract_step(config, mesh, recipe, _rows(load, mesh), load.prompt_len), recipe


def compile_train(state: TrainState, batch: Batch, recipe: Recipe) -> Compiled:
    return _compile(train_step, state, batch, recipe)


def _prefill_arguments(model: GPTNeoX, load: Workload) -> tuple[Any, ...]:
    assert model.mesh is not None
    rows = _rows(load, model.mesh)
    shape = (rows, bucket(load.prompt_len))
    tokens, valid = jnp.zeros(shape, jnp.int32), jnp.zeros(shape, bool)
    greedy = GenerationOptions(temperature=0.0).resolve({})
    sampler = Sampler.of([greedy] * rows, [load.gen_len] * rows, Vocabulary([0]))
    inputs = jax.tree.map(lambda x: _everywhere(x, model.mesh), (tokens, valid, sampler))
    return (model, *inputs)


def _rows(load: Workload, mesh: Mesh) -> int:
    """The batch, filled up so that it divides over the mesh's data axis."""
    return load.batch_size + -load.batch_size % mesh.shape["data"]


def _compile(function: Any, *arguments: Any, **static: Any) -> Compiled:
    start = time.perf_counter()
    program = function.lower(*arguments, **static).compile()
    return Compiled(program, arguments, time.perf_counter() - start)


def _on_mesh(tree: Any, mesh: Mesh | None) -> Any:
    """Shapes with the shardings that the loop gives to what it carries."""
    assert mesh is not None

    def of(x: Segment | jax.ShapeDtypeStruct) -> Any:
        if not isinstance(x, Segment):
            return _everywhere(x, mesh)
        kv = jax.tree.map(lambda y: _struct(y, mesh, "rows", "heads", None, None), x.kv)
        return Segment(kv, _struct(x.valid, mesh, "rows", None))

    return jax.tree.map(of, tree, is_leaf=lambda x: isinstance(x, Segment))


def _everywhere(x: Any, mesh: Mesh | None) -> Any:
    assert mesh is not None
    return _struct(x, mesh)


def _struct(x: Any, mesh: Mesh, *axes: str | None) -> Any:
    return _placed(x, sharding(mesh, x.shape, axes))


def _placed(x: Any, where: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
