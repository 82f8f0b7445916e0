"""Cases that once ended in a traceback, took gigabytes or minutes, or read what they should not.

Each with the status that it must end with, by what was wrong.
"""

import json
from typing import Any

from tests.fuzz.bases import TRAIN
from tests.fuzz.case import Case, Edit
from tests.fuzz.tiny_model import CONFIG

_MODEL = ("--model", "model", "--max-new-tokens", "1")
_PROMPT = (*_MODEL, "--prompt", "a")
_DIGITS = "1" + "0" * 5000
_CONVERT = ("model", "out", "--no-verify", "--to", "hf")


def _text(path: str, text: str) -> Edit:
    return Edit(path, "bytes", text.encode())


def _json(path: str, value: Any) -> Edit:
    return _text(path, json.dumps(value))


def _generate(*edits: Edit, args: tuple[str, ...] = _PROMPT) -> Case:
    return Case("corpus", "generate.py", args, ("model", "texts"), edits)


def _config(**changes: Any) -> Edit:
    return _json("model/config.json", CONFIG | changes)


def _tokenizer(**changes: Any) -> Edit:
    """A tokenizer of words, with other parts or more of them."""
    model = {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "<unk>": 2}, "unk_token": "<unk>"}
    whole = {"version": "1.0", "added_tokens": [], "model": model, "decoder": None}
    return _json("model/tokenizer.json", whole | changes)


def _neox(settings: str, *edits: Edit) -> Case:
    """An EleutherAI checkpoint with one more line of settings."""
    path = "model/global_step0/configs/more.yml"
    return Case("corpus", "convert_params.py", _CONVERT, ("neox",), (_text(path, settings), *edits))


def _check(path: str, *edits: Edit, base: str = "native") -> Case:
    return Case("corpus", "convert_params.py", ("--check", path), (base,), edits)


def _certificate(name: str) -> Edit:
    files = {name: {"bytes": 1, "sha256": "0" * 64}}
    return _json("model/certificate.json", {"result": {"files": files}, "tensors": {}})


_LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 8)
)
_SCALE = "model/parameters/gpt_neox.final_layer_norm.weight/zarr.json"
_ARRAY = {"zarr_format": 3, "node_type": "array", "shape": [8], "data_type": "(2,"}
_BACKTRACKING = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"}
_FAR = {"id": 2**31 - 8, "content": "<far>", "special": True, "normalized": False}
_FAR |= {"single_word": False, "lstrip": False, "rstrip": False}

CORPUS: dict[str, tuple[Case, int]] = {
    "--check of a relative path in EleutherAI's layout": (_check("model", base="neox"), 0),
    "--check of a path with .. in it": (_check("../work/model", base="neox"), 0),
    "--check of a link": (
        _check("there", Edit("there", "link", b"model"), base="neox"),
        0,
    ),
    "a certificate of a file outside": (
        _check("model", _certificate("../../../../../../../../etc/hostname")),
        2,
    ),
    "a certificate of a file of 300 characters": (_check("model", _certificate("x" * 300)), 2),
    "YAML of aliases of aliases": (_neox(f"{_LAUGHS}norm: *a7\n"), 2),
    "YAML of a list within itself": (_neox("attention_config: &a [*a]\n"), 2),
    "YAML of a timestamp that is none": (_neox("norm: !!timestamp x\n"), 2),
    "a token id near 2**31 and a stop text": (
        _generate(_tokenizer(added_tokens=[_FAR]), args=(*_PROMPT, "--stop", "b")),
        2,
    ),
    "a decoder of WordPiece and a stop text": (
        _generate(
            _tokenizer(decoder={"type": "WordPiece", "prefix": "##", "cleanup": True}),
            args=(*_PROMPT, "--stop", "b"),
        ),
        0,
    ),
    "a regular expression that backtracks for ever": (
        _generate(_tokenizer(normalizer=_BACKTRACKING), args=(*_MODEL, "--prompt", "a" * 60 + "!")),
        2,
    ),
    "a --logit-bias of 50,000 ids": (
        _generate(
            _json("bias.json", {str(n): 1.5 for n in range(50_000)}),
            args=(*_PROMPT, "--logit-bias", "bias.json"),
        ),
        2,
    ),
    "a logit_bias of 5,000 digits in a request": (
        _generate(
            _text("prompts.jsonl", '{"prompt": "a", "logit_bias": {"%s": 1}}' % _DIGITS),  # noqa: UP031
            args=(*_MODEL, "--prompt-file", "prompts.jsonl"),
        ),
        2,
    ),
    "a sequence_bias of 5,000 digits": (
        _generate(
            _text("model/generation_config.json", f'{{"sequence_bias": {{"{_DIGITS}": 1}}}}'),
        ),
        2,
    ),
    "a number of 5,000 digits in config.json": (
        _generate(_text("model/config.json", f'{{"model_type": "gpt_neox", "x": {_DIGITS}}}')),
        2,
    ),
    "an EOS id of 2**32 + 5": (_generate(_config(eos_token_id=2**32 + 5)), 2),
    "an initializer_range of 2**32": (
        Case("corpus", "train.py", TRAIN, ("model", "texts"), (_config(initializer_range=2**32),)),
        0,
    ),
    "a million beams": (_generate(args=(*_PROMPT, "--num-beams", "1000000")), 2),
    "a dtype in zarr.json that is half a tuple": (
        Case("corpus", "generate.py", _PROMPT, ("native",), (_json(_SCALE, _ARRAY),)),
        2,
    ),
    "a pipe in the place of config.json": (_generate(Edit("model/config.json", "fifo")), 2),
    "a pipe in the place of EleutherAI's weights": (
        _neox("", Edit("model/global_step0/layer_02-model_00-model_states.pt", "fifo")),
        2,
    ),
}
