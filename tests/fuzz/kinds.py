"""Each kind of case, by its name: what draws a case of it from the valid files of all bases."""

import fnmatch
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from hypothesis import strategies as st

from tests.fuzz import commands
from tests.fuzz.case import Case, Edit
from tests.fuzz.faults import Draw
from tests.fuzz.formats import faulty
from tests.fuzz.options import of_options, of_options_alone
from tests.fuzz.services import of_harness, of_harness_alone, of_hosts, of_hub
from tests.fuzz.templates import of_template

Bases = Mapping[str, Path]
Kind = Callable[[Draw, Bases], Case]


def _of_files(
    kind: str, base: str, pattern: str, command: commands.Drawn, draw: Draw, bases: Bases
) -> Case:
    """Faults in one of the files of a base, rarely in two, and a command that reads them."""
    program, args, stdin = command(draw)
    edits = _edits(base, pattern, draw, bases)
    return Case(kind, program, args, (base, "texts"), edits, stdin)


def _of_reading(
    kind: str, base: str, pattern: str, calls: tuple[str, ...], draw: Draw, bases: Bases
) -> Case:
    """The same faults, and one of a few calls of a reader; `*` is the name of the faulty file."""
    edits = _edits(base, pattern, draw, bases)
    args = draw(st.sampled_from(calls)).replace("*", edits[0].path)
    return Case(kind, "read", tuple(args.split()), (base,), edits)


def _edits(base: str, pattern: str, draw: Draw, bases: Bases) -> tuple[Edit, ...]:
    paths = files_of(base, pattern, bases)
    chosen = {draw(st.sampled_from(paths)) for _ in range(draw(st.sampled_from((1, 1, 1, 2))))}
    return tuple(faulty(draw, path, (bases[base] / path).read_bytes()) for path in sorted(chosen))


def files_of(base: str, pattern: str, bases: Bases) -> list[str]:
    paths = (path.relative_to(bases[base]) for path in bases[base].rglob("*") if path.is_file())
    return fnmatch.filter(sorted(map(str, paths)), pattern)


_FILES: tuple[tuple[str, str, str, commands.Drawn], ...] = (
    ("config.json", "model", "model/config.json", commands.of_model),
    ("generation_config.json", "model", "model/generation_config.json", commands.of_model),
    ("tokenizer.json", "model", "model/tokenizer.json", commands.of_text),
    ("tokenizer_config.json", "model", "model/tokenizer_config.json", commands.of_text),
    ("special tokens", "dressed", "model/*_token*.json", commands.of_text),
    ("tokenizer.model", "sentencepiece", "model/t*", commands.of_text),
    ("model.safetensors", "model", "model/model.safetensors", commands.of_model),
    ("safetensors index", "sharded", "model/model*", commands.of_model),
    ("pytorch_model.bin", "bin", "model/pytorch_model*", commands.of_model),
    ("old pytorch_model.bin", "old bin", "model/pytorch_model*", commands.of_model),
    ("native", "native", "model/*", commands.of_model),
    ("neox", "neox", "model/*", commands.of_neox),
    ("neox settings", "neox", "model/*.yml", commands.of_neox),
    ("certificate.json", "native", "model/certificate.json", commands.of_certificate),
    ("adapter", "adapter", "adapter/*", commands.of_adapter),
    ("soft prompt", "soft prompt", "adapter/*", commands.of_soft_prompt),
    ("prompt files", "prompts", "prompts*", commands.of_prompts),
    ("texts to score", "prompts", "scored*", commands.of_scored),
    ("logit bias", "prompts", "bias.json", commands.of_bias),
    ("training data", "data", "data*", commands.of_data),
    ("scores to go on", "rows of score.py", "out*", commands.of_scores),
    ("completions to go on", "rows of generate.py", "out*", commands.of_completions),
    ("a run to go on", "run", "out/*", commands.of_run),
)
_TOKENIZER = ("tokenizer", "template")
_BIAS = "options generate.py --logit-bias bias.json"
# Each with the calls of tests/fuzz/readers.py that it can reach.
FILES_READ: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("reading config.json", "model", "model/config.json", ("config", "checkpoint model")),
    ("reading generation_config.json", "model", "model/generation_config.json", ("generation",)),
    ("reading tokenizer.json", "model", "model/tokenizer.json", ("tokenizer",)),
    ("reading tokenizer_config.json", "model", "model/tokenizer_config.json", _TOKENIZER),
    ("reading special tokens", "dressed", "model/*_token*.json", _TOKENIZER),
    ("reading tokenizer.model", "sentencepiece", "model/t*", ("tokenizer",)),
    ("reading model.safetensors", "model", "model/model.safetensors", ("checkpoint model",)),
    ("reading a safetensors index", "sharded", "model/model*", ("checkpoint model",)),
    ("reading pytorch_model.bin", "bin", "model/pytorch_model*", ("checkpoint model",)),
    ("reading an old pytorch_model.bin", "old bin", "model/pytorch*", ("checkpoint model",)),
    ("reading native", "native", "model/*", ("checkpoint model", "source")),
    ("reading neox", "neox", "model/*", ("source",)),
    ("reading neox tokenizers", "neox", "model/tokenizer.json", ("source",)),
    ("reading neox settings", "neox", "model/*.yml", ("source",)),
    ("reading certificate.json", "native", "model/certificate.json", ("certificate",)),
    ("reading an adapter", "adapter", "adapter/*", ("adapter", "checkpoint adapter")),
    ("reading a soft prompt", "soft prompt", "adapter/*", ("soft_prompt",)),
    ("reading prompt files", "prompts", "prompts*", ("prompts *",)),
    ("reading texts to score", "prompts", "scored*", ("texts *",)),
    ("reading logit bias", "prompts", "bias.json", (_BIAS,)),
    ("reading training data", "data", "data*", ("data *",)),
    ("reading rows to go on", "partial rows", "out*", ("rows --output out.jsonl",)),
    ("reading a run to go on", "run files", "out/*", ("run_directory --output out",)),
    ("reading checkpoints", "checkpoints", "out/*", ("checkpoints --output out",)),
)
READING: dict[str, Kind] = {
    **{each[0]: partial(_of_reading, *each) for each in FILES_READ},
    "reading chat templates": partial(of_template, reads=True),
    "reading options": of_options_alone,
    "reading harness arguments": of_harness_alone,
    "reading hosts": of_hosts,
}
COMMANDS: dict[str, Kind] = {
    **{each[0]: partial(_of_files, *each) for each in _FILES},
    "chat templates": of_template,
    "options": of_options,
    "the Hub's answers": of_hub,
    "harness arguments": of_harness,
}
KINDS = READING | COMMANDS
