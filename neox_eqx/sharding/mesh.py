"""The mesh that a model runs on: given in words, or picked for the devices at hand."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.shown import shown

AXES = ("data", "model")

# The share of a device's memory that its weights may take, chosen to leave the rest for the cache.
_WEIGHT_SHARE = 0.6


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """What `data=2,model=4` asks for; an axis that is not named is None.

    `heads` counts the model's own heads and added ones that do nothing, so that they divide over
    the model axis.
    `layout` is one of `rules.LAYOUTS`.
    """

    text: str
    data: int | None = None
    model: int | None = None
    heads: int | None = None
    layout: str = "1d"

    @classmethod
    def parse(cls, text: str) -> "Arrangement":
        """
        Raises:
            InputError: neither "auto" nor a list of sizes.
        """
        if text == "auto":
            return cls(text)
        given: dict[str, Any] = {}
        for part in text.split(","):
            sizes = re.fullmatch(r"\s*(data|model|heads)\s*=\s*([1-9]\d{0,5})\s*", part)
            layout = re.fullmatch(r"\s*(layout)\s*=\s*(1d|2d)\s*", part)
            match = sizes or layout
            if not match or match[1] in given:
                raise InputError(
                    f"the mesh {shown(text)} is neither auto nor of the form data=2,model=4"
                )
            given[match[1]] = int(match[2]) if sizes else match[2]
        if not given.keys() & {"data", "model"}:
            raise InputError(f"the mesh {shown(text)} names neither data nor model")
        return cls(text, **given)

    def heads_of(self, config: GPTNeoXConfig) -> int:
        return self.heads or config.num_attention_heads


def make_mesh(
    config: GPTNeoXConfig,
    sizes: str = "auto",
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """A mesh of `devices`, by default all, with axes of the sizes in `data=2,model=4`.

    An axis that is not named takes the devices that are left. With "auto", model is the largest
    size that divides the model within a host, and grows over hosts only where the weights would
    not fit. Devices of a host are neighbours along model, whose traffic is far above that of
    data.

    Raises:
        InputError: the sizes do not divide the model, or are not those of the devices.
    """
    devices = jax.devices() if devices is None else devices
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    count, hosts = len(devices), len({device.process_index for device in devices})
    asked = Arrangement.parse(sizes)
    heads = asked.heads_of(config)
    if heads < config.num_attention_heads:
        raise InputError(f"{sizes}: the model has {config.num_attention_heads} heads already")
    fitting = model_sizes(config, count, heads)
    if hosts > 1:  # none of which may be left out
        fitting = [size for size in fitting if count % size == 0]
    data, model = asked.data, asked.model
    if data is None and model is None:
        model = _model_size(config, fitting, devices)
    data = data or max(1, count // (model or 1))
    model = model or max(1, count // data)
    if model not in fitting:
        raise InputError(
            f"{sizes}: model={model} does not divide the {heads} heads and "
            f"the MLP of {config.intermediate_size} over {count} devices; model can be "
            f"{', '.join(map(str, fitting))}"
        )
    # Only on one machine, and only where both sizes are named, may devices be left idle.
    may_be_fewer = hosts == 1 and asked.data is not None and asked.model is not None
    if data * model > count or (data * model < count and not may_be_fewer):
        raise InputError(
            f"{sizes}: data={data},model={model} is a mesh of {data * model} devices, "
            f"and there are {count}"
        )
    if asked.layout == "2d" and config.hidden_size % data:
        raise InputError(
            f"{sizes}: data={data} does not divide the hidden size of {config.hidden_size}"
        )
    grid = np.array(devices[: data * model]).reshape(data, model)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 2)


def checked_mesh(config: GPTNeoXConfig, mesh: Mesh) -> Mesh:
    """A mesh that the user made, with axes along which the compiler shards by itself.

    Raises:
        InputError: its axes are others, or do not divide the model.
    """
    if mesh.axis_names != AXES:
        raise InputError(f"the axes of the mesh are {mesh.axis_names}; they must be {AXES}")
    if mesh.shape["model"] not in model_sizes(config, mesh.size):
        raise InputError(
            f"model={mesh.shape['model']} does not divide the {config.num_attention_heads} heads "
            f"and the MLP of {config.intermediate_size}"
        )
    return Mesh(mesh.devices, AXES, axis_types=(AxisType.Auto,) * 2)


def model_sizes(config: GPTNeoXConfig, devices: int, heads: int | None = None) -> list[int]:
    """The sizes of the model axis that split the heads and the MLP evenly over the devices."""
    common = math.gcd(heads or config.num_attention_heads, config.intermediate_size)
    return [size for size in range(1, min(common, devices) + 1) if common % size == 0]


def _model_size(config: GPTNeoXConfig, fitting: list[int], devices: list[jax.Device]) -> int:
    fitting = [size for size in fitting if len(devices) % size == 0]
    host = sum(device.process_index == devices[0].process_index for device in devices)
    size = max(size for size in fitting if host % size == 0)
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    larger = [other for other in fitting if other > size]
    while limit and larger and _weight_bytes(config) / size > _WEIGHT_SHARE * limit:
        size = larger.pop(0)
    return size


def _weight_bytes(config: GPTNeoXConfig) -> int:
    """The weights' bytes in bfloat16, as on accelerators, without the small norms and biases."""
    layer = 4 * config.hidden_size**2 + 2 * config.hidden_size * config.intermediate_size
    ends = 2 * config.vocab_size * config.hidden_size
    return 2 * (config.num_hidden_layers * layer + ends)
