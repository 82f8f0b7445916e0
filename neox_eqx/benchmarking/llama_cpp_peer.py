"""llama.cpp generating with the weights of one of our models."""

import os
import tempfile
import time
from pathlib import Path

import numpy as np

from neox_eqx.benchmarking.gguf_file import write_gguf
from neox_eqx.errors import InputError
from neox_eqx.model.neox import GPTNeoX

NEEDED = {"llama_cpp": "llama-cpp-python", "gguf": "gguf"}
"""Modules, and their names for pip."""


class LlamaCppPeer:
    """llama.cpp with matrices in one of `gguf_file.FORMS`, on as many cores as this process has.

    Its own settings but for rows that each have room for `positions`: keys and values in 16 bits.

    Raises:
        InputError: llama.cpp refuses the model.
    """

    def __init__(self, model: GPTNeoX, form: str, *, rows: int, positions: int):
        import llama_cpp

        self._cpp = llama_cpp
        # What it would print of each file, past sys.stderr. It is called for as long as this lives.
        self._silent = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._silent, None)
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "model.gguf")
            write_gguf(model, path, form)
            how = llama_cpp.llama_model_default_params()
            how.use_mmap = False  # the file ends with this block
            self._model = llama_cpp.llama_model_load_from_file(os.fsencode(path), how)
        if not self._model:
            raise InputError("llama.cpp does not read the file that gguf wrote of this model")
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = rows * positions
        settings.n_batch = rows * positions
        settings.n_seq_max = rows
        settings.n_threads = settings.n_threads_batch = len(os.sched_getaffinity(0))
        self._context = llama_cpp.llama_init_from_model(self._model, settings)
        if not self._context:
            raise InputError(f"llama.cpp has no memory for {rows} rows of {positions} positions")
        self._batch = llama_cpp.llama_batch_init(rows * positions, 0, 1)
        self._vocab = model.config.vocab_size

    def generate(self, prompts: np.ndarray, count: int) -> tuple[float, float, np.ndarray]:
        """Seconds to the first token, seconds for the rest, and the greedy tokens."""
        self._cpp.llama_memory_clear(self._cpp.llama_get_memory(self._context), True)
        length = prompts.shape[1]
        start = time.perf_counter()
        tokens = [self._next(prompts, 0)]
        first = time.perf_counter()
        for position in range(length, length + count - 1):
            tokens.append(self._next(tokens[-1][:, None], position))
        return first - start, time.perf_counter() - first, np.stack(tokens, axis=1)

    def _next(self, tokens: np.ndarray, position: int) -> np.ndarray:
        """The most probable token after tokens (rows, n) that begin at this position."""
        batch, (rows, length) = self._batch, tokens.shape
        batch.n_tokens = tokens.size
        for at, token in enumerate(tokens.flat):
            batch.token[at], batch.pos[at] = token, position + at % length
            batch.n_seq_id[at], batch.seq_id[at][0] = 1, at // length
            batch.logits[at] = at % length == length - 1
        failed = self._cpp.llama_decode(self._context, batch)
        if failed:
            raise InputError(f"llama.cpp ended a step with {failed}")
        logits = self._cpp.llama_get_logits(self._context)
        return np.ctypeslib.as_array(logits, (rows, self._vocab)).argmax(1)
