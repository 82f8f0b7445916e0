"""Products with weights in few bits on a CPU, by a small C++ library behind jax.ffi."""
