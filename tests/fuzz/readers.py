"""What reads each kind of file or option, alone: no model runs, and a case takes milliseconds.

A reader is called by name, with arguments, in a directory with the files. What it promises is
what a command does: it returns, or ends in one line on stderr and exit status 2.
"""

import contextlib
import dataclasses
import io
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import optax
from lm_eval.utils import simple_parse_args_string

from neox_eqx.checkpoint.adapter import check_fits, read_adapter
from neox_eqx.checkpoint.checkpoint import Checkpoint
from neox_eqx.checkpoint.entry import Entry
from neox_eqx.checkpoint.fit import fitting
from neox_eqx.checkpoint.load_prompt import load_prompt
from neox_eqx.checkpoint.names import stored_name
from neox_eqx.checkpoint.origin import find
from neox_eqx.command_line import parse, run_program
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.convert.check import check
from neox_eqx.convert.read import read_source
from neox_eqx.generation.options.generation_options import GenerationOptions
from neox_eqx.harness.arguments import batch_rows, model_arguments, read_dtype
from neox_eqx.model.prompt import SoftPrompt
from neox_eqx.planning.chips import Topology
from neox_eqx.scoring.lines import read_texts
from neox_eqx.sharding.mesh import Arrangement
from neox_eqx.text.files import read_prompts
from neox_eqx.text.generation_config import bos_token_id, eos_token_ids, read_generation_config
from neox_eqx.text.resume import partial_rows
from neox_eqx.text.template import load_template, special_tokens
from neox_eqx.text.tokenizer import Detokenizer, load_tokenizer
from neox_eqx.text.words import bad_word_ids, known_tokens, token_bytes
from neox_eqx.tokenizer import text_of, token_ids
from neox_eqx.training.data.reader import Reader
from neox_eqx.training.log.metrics_file import MetricsFile
from neox_eqx.training.run.checkpoints import Checkpoints
from neox_eqx.training.run.settings import claimed, keep_settings
from neox_eqx.training.update.state import TrainState
from tests.fuzz.options import OPTIONS
from tests.podrun.parts import podrun

MODEL, ADAPTER = Path("model"), Path("adapter")
SUBJECT = {"model": "a", "dtype": "float32"}
"""What the rows of the base "partial rows" come of."""
SETTINGS: dict[str, Any] = {"steps": 1, "seed": 0, "model": {"vocab_size": 520}, "weights": "ab"}
"""What the run of the base "run" was asked for."""
_SAID = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "Two."}]


def config() -> None:
    read = GPTNeoXConfig.from_file(MODEL / "config.json")
    GPTNeoXConfig.from_hf(read.to_hf())


def generation() -> None:
    own, defaults = GPTNeoXConfig.from_file(MODEL / "config.json"), read_generation_config(MODEL)
    options = GenerationOptions().resolve(defaults)
    options.check_ids(own.vocab_size)
    bos_token_id(defaults, own), eos_token_ids(defaults, own)


def tokenizer() -> None:
    words = load_tokenizer(MODEL)
    special_tokens(MODEL)
    ids = token_ids(words, "How many 고양이? 3 <|endoftext|>", what="the prompt")
    text_of(words, ids)
    pieces = Detokenizer(words, ids[:1])
    pieces.add(ids[1:])
    pieces.end()
    known_tokens(words, 520)
    token_bytes(words)
    bad_word_ids(words, "Tom")


def template() -> None:
    written = load_template(MODEL, None)
    written.render(_SAID[:1])
    written.render_learnt(_SAID)


def checkpoint(model: str) -> None:
    """The shapes of all tensors, and the values of a few."""
    origin = find(model)
    _read_some(fitting(Checkpoint.open_here(origin)).values())


def source() -> None:
    _read_some(fitting(read_source("model").checkpoint).values())


def certificate() -> None:
    check(MODEL)


def adapter() -> None:
    read = read_adapter(ADAPTER)
    entries = Checkpoint.open_here(find("model")).entries
    check_fits(read, {name: entry for entry in entries if (name := stored_name(entry.name))})


def soft_prompt() -> None:
    load_prompt(ADAPTER, GPTNeoXConfig.from_file(MODEL / "config.json"))


def prompts(file: str) -> None:
    read_prompts(Path(file), GenerationOptions())


def texts(file: str) -> None:
    read_texts(Path(file))


def data(file: str) -> None:
    own = GPTNeoXConfig.from_file(MODEL / "config.json")
    reader = Reader.of(find("model"), own, None)
    how: dict[str, Any] = {"max_length": 64, "too_long": "cut", "batch_size": 1}
    reader.read(Path(file), **how, pack=True, seed=0)


def rows(_: str, output: str) -> None:
    with partial_rows(Path(output)) as own:
        own.begin(SUBJECT)
        own.are_there(2)
        own.finish()


def run_directory(_: str, output: str) -> None:
    directory = Path(output)
    with claimed(directory):
        keep_settings(directory, SETTINGS, goes_on=True)
        MetricsFile(directory, 1).finish(0)


def checkpoints(_: str, output: str) -> None:
    with Checkpoints(Path(output) / "checkpoints", 2) as own:
        if own.latest:
            own.restore(state())


def state() -> TrainState:
    """What the base "checkpoints" holds, as small as can be."""
    prompt, count = SoftPrompt(jnp.ones((2, 8))), jnp.array(0)
    moments = optax.ScaleByAdamState(count, prompt, prompt)
    return TrainState(prompt, moments, jnp.array(1), count, count)


def options(program: str, *args: str) -> None:
    """An option's value, and what is made of it before anything is read."""
    own: Any = parse(OPTIONS[program], program, args)
    if "generation" in {field.name for field in dataclasses.fields(own)}:
        own.generation.resolve({})
    for topology in getattr(own, "topology", None) or ():
        Topology.parse(topology)
    if getattr(own, "mesh", None):
        Arrangement.parse(own.mesh)


def harness(args: str, batch: str) -> None:
    own = model_arguments(simple_parse_args_string(args))
    batch_rows(batch, None)
    read_dtype(own.get("dtype"), find("model"))


def hosts(*args: str) -> None:
    """podrun's options and its list of hosts, of which none is asked for."""
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            own = podrun.parse(list(args))
            podrun.check_names(podrun.listed_hosts(own.hosts or "podips.txt"), "--hosts")
    except podrun.Failed as failure:
        print(f"podrun: {failure}", file=told)
        sys.exit(failure.status)
    finally:
        sys.stderr.write(told.getvalue().replace("podrun: ", "read: error: ", 1))


READERS: dict[str, Callable[..., None]] = {
    function.__name__: function
    for function in (
        *(config, generation, tokenizer, template, checkpoint, source, certificate, adapter),
        *(soft_prompt, prompts, texts, data, rows, run_directory, checkpoints, options, harness),
        hosts,
    )
}


def main() -> None:
    """Calls the reader that the command line names, as a program of this project is run."""
    name, *args = sys.argv[1:]
    run_program("read", lambda: READERS[name](*args))


def _read_some(entries: Iterable[Entry]) -> None:
    for entry in list(entries)[::5]:
        entry.read(tuple(slice(0, 2) for _ in entry.shape))
