"""Each kind of case, by its name: what draws a case of it from the valid files of all bases."""

import fnmatch
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from hypothesis import strategies as st

from tests.fuzz import commands
from tests.fuzz.case import Case
from tests.fuzz.faults import Draw
from tests.fuzz.formats import faulty
from tests.fuzz.options import of_options
from tests.fuzz.services import of_harness, of_hub
from tests.fuzz.templates import of_template

Bases = Mapping[str, Path]
Kind = Callable[[Draw, Bases], Case]


def _of_files(
    kind: str, base: str, pattern: str, command: commands.Drawn, draw: Draw, bases: Bases
) -> Case:
    """Faults in one of the files of a base, rarely in two, and a command that reads them."""
    paths = sorted(
        str(path.relative_to(bases[base])) for path in bases[base].rglob("*") if path.is_file()
    )
    paths = fnmatch.filter(paths, pattern)
    chosen = {draw(st.sampled_from(paths)) for _ in range(draw(st.sampled_from((1, 1, 1, 2))))}
    edits = [faulty(draw, path, (bases[base] / path).read_bytes()) for path in sorted(chosen)]
    program, args, stdin = command(draw)
    return Case(kind, program, args, (base, "texts"), tuple(edits), stdin)


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
KINDS: dict[str, Kind] = {
    **{each[0]: partial(_of_files, *each) for each in _FILES},
    "chat templates": of_template,
    "options": of_options,
    "the Hub's answers": of_hub,
    "harness arguments": of_harness,
}
