"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864) and its length extensions."""

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.rope import RopeParameters


class Rotary(eqx.Module):
    """Cosines and sines of the new tokens' angles, times YaRN's factor; R has two equal halves."""

    cos: Float[Array, "B T R"]
    sin: Float[Array, "B T R"]

    @classmethod
    def at(
        cls, config: GPTNeoXConfig, positions: Int[Array, "B T"], longest: Int[Array, " B"]
    ) -> "Rotary":
        """For tokens at `positions` in rows of `longest` tokens, the past included; float32.

        Only rope_type dynamic looks at the length, of each row by itself. transformers takes the
        longest row of the batch and keeps what an earlier call left behind; this is what it
        computes for one row in a fresh model.
        """
        # In float32: at position 2,000 a bfloat16 angle is off by whole radians.
        frequencies, scale = _frequencies(config, longest)
        angles = positions[..., None].astype(jnp.float32) * frequencies
        angles = jnp.concatenate([angles, angles], axis=-1)
        return cls(jnp.cos(angles) * scale, jnp.sin(angles) * scale)

    def astype(self, dtype: jnp.dtype) -> "Rotary":
        return Rotary(self.cos.astype(dtype), self.sin.astype(dtype))

    def rotate(self, x: Float[Array, "B H T K"]) -> Float[Array, "B H T K"]:
        """Rotates each dim of the first half of R with that of the second; dims after R stay."""
        width = self.cos.shape[-1]
        rotated, passed = x[..., :width], x[..., width:]
        a, b = jnp.split(rotated, 2, axis=-1)
        turned = jnp.concatenate([-b, a], axis=-1)
        rotated = rotated * self.cos[:, None] + turned * self.sin[:, None]
        return jnp.concatenate([rotated, passed], axis=-1)


def _frequencies(
    config: GPTNeoXConfig, longest: Int[Array, " B"]
) -> tuple[Float[Array, "B 1 R2"] | Float[np.ndarray, " R2"], float]:
    """Radians per token for each rotated pair, and the factor on cosines and sines."""
    rope, width = config.rope_parameters, config.rotary_dim
    if rope.rope_type == "dynamic":
        return _dynamic(config, longest), 1.0
    plain = _plain(rope.rope_theta, width)
    if rope.rope_type == "linear":
        return plain / np.float32(rope.factor), 1.0
    if rope.rope_type == "llama3":
        return _llama3(plain, rope), 1.0
    if rope.rope_type == "yarn":
        return _yarn(plain, rope, width), _yarn_scale(rope)
    return plain, 1.0


def _plain(theta: float, width: int) -> Float[np.ndarray, " R2"]:
    """theta^(-2i/width). An odd width still divides the exponent, and rotates one dim more."""
    exponents = np.arange(0, width, 2, dtype=np.float32) / np.float32(max(width, 1))
    return (1 / np.power(np.float32(theta), exponents)).astype(np.float32)


def _dynamic(config: GPTNeoXConfig, longest: Int[Array, " B"]) -> Float[Array, "B 1 R2"]:
    """NTK-aware scaling that grows with the text beyond the trained length."""
    rope, width = config.rope_parameters, config.rotary_dim
    assert rope.factor is not None
    length = jnp.maximum(longest, config.max_position_embeddings).astype(jnp.float32)
    stretch = rope.factor * length / config.max_position_embeddings - (rope.factor - 1)
    theta = rope.rope_theta * stretch ** (width / (width - 2))
    exponents = jnp.arange(0, width, 2, dtype=jnp.float32) / width
    return 1 / theta[:, None, None] ** exponents


def _llama3(plain: Float[np.ndarray, " R2"], rope: RopeParameters) -> Float[np.ndarray, " R2"]:
    """Slow waves are divided by the factor, fast ones kept, those between interpolated."""
    trained = rope.original_max_position_embeddings
    assert rope.factor and rope.low_freq_factor and rope.high_freq_factor and trained
    wavelength = 2 * np.float32(math.pi) / plain
    low, high = rope.low_freq_factor, rope.high_freq_factor
    keep = np.clip((trained / wavelength - low) / (high - low), 0, 1)
    return ((1 - keep) * plain / rope.factor + keep * plain).astype(np.float32)


def _yarn(
    plain: Float[np.ndarray, " R2"], rope: RopeParameters, width: int
) -> Float[np.ndarray, " R2"]:
    """Peng et al. 2023, arXiv:2309.00071: a ramp over the dims from kept to interpolated."""
    factor, trained = rope.factor, rope.original_max_position_embeddings
    assert factor and trained

    def dim_of(rotations: float) -> float:
        log_wavelength = math.log(trained / (rotations * 2 * math.pi))
        return width * log_wavelength / (2 * math.log(rope.rope_theta))

    low, high = dim_of(rope.beta_fast or 32), dim_of(rope.beta_slow or 1)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(width // 2, dtype=np.float32) - low) / (high - low), 0, 1)
    return (plain / factor * ramp + plain * (1 - ramp)).astype(np.float32)


def _yarn_scale(rope: RopeParameters) -> float:
    """The factor on cosines and sines; 0.1 ln(factor) + 1 where the config gives none."""
    if rope.attention_factor is not None:
        return rope.attention_factor

    factor = rope.factor
    assert factor is not None

    def magnitude(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1

    if rope.mscale and rope.mscale_all_dim:
        return magnitude(rope.mscale) / magnitude(rope.mscale_all_dim)
    return magnitude(1)
