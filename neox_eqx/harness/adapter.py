"""Our checkpoints as a model of the harness, which answers as its transformers backend does."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import lm_eval.models  # noqa: F401  its own models, which it would not register after ours
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from neox_eqx.errors import InputError
from neox_eqx.generation.options import GenerationOptions
from neox_eqx.generation.run import Request, run
from neox_eqx.scoring.encode import encode, prefix_token
from neox_eqx.scoring.pairs import Pair, score_pairs
from neox_eqx.text.generator import TextGenerator

_STRIDE = 16
"""Tokens between two looks at whether every row of a batch has met a text to stop at."""
# One text is asked for, of one row, and it ends at the harness's own texts.
_FIXED: dict[str, Any] = {"num_beams": 1, "num_samples": 1, "num_return_sequences": 1, "stop": ()}
_OPTION_NAMES = {field.name for field in dataclasses.fields(GenerationOptions)} - _FIXED.keys()

TokenRequest = tuple[tuple[str, str] | None, list[int], list[int]]
"""Context and continuation as texts, if the cache is to have the answer, and as tokens."""


@register_model("neox_eqx")
class NeoXLM(TemplateLM):
    """A checkpoint as the harness asks for it.

    `pretrained`, `dtype`, `mesh` and `quantize` are those of `TextGenerator.load`. `max_length`
    positions are used, by default all that the model has. `prefix_token_id` stands before a text
    without a context: by default BOS, or EOS where there is none. What the harness says of a
    `device` and a `max_batch_size` is for its own backends.

    Raises:
        InputError: the checkpoint cannot be loaded.
    """

    def __init__(
        self,
        pretrained: str,
        *,
        dtype: str | None = None,
        mesh: str | None = None,
        quantize: str | None = None,
        batch_size: int | str = 8,
        max_length: int | None = None,
        prefix_token_id: int | None = None,
        device: str | None = None,
        max_batch_size: int | None = None,
    ):
        super().__init__()
        self._generator = TextGenerator.load(pretrained, dtype=dtype, mesh=mesh, quantize=quantize)
        self._batch_size = _number("batch_size", batch_size)
        self.max_length = max_length or self._generator.model.config.context_length
        prefix = prefix_token(self._generator) if prefix_token_id is None else prefix_token_id
        if prefix is None:
            raise InputError("the model has no BOS or EOS token; give a prefix_token_id")
        self._prefix = prefix

    @property
    def eot_token_id(self) -> int:
        return next(iter(self._generator.eos_token_ids), self._prefix)

    @property
    def prefix_token_id(self) -> int:
        return self._prefix

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Token ids of a text. Unless it is said, a text that begins with BOS is given no other."""
        tokenizer = self._generator.tokenizer
        if add_special_tokens is not None:
            return tokenizer.encode(string, add_special_tokens=add_special_tokens).ids
        return list(encode(tokenizer, string, self._prefix))

    def _loglikelihood_tokens(
        self, requests: Sequence[TokenRequest], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """What does not fit into the model is cut off at the beginning of the context."""
        pairs = [self._pair(context, tokens) for _, context, tokens in requests]
        answers: dict[int, tuple[float, bool]] = {}
        with tqdm(total=len(pairs), unit=" scores", disable=disable_tqdm or None) as bar:
            for batch in score_pairs(self._generator.model, pairs, batch_size=self._batch_size):
                for index, score in batch:
                    answers[index] = math.fsum(score.logprobs), all(score.are_greedy)
                    if texts := requests[index][0]:
                        self.cache_hook.add_partial("loglikelihood", texts, answers[index])
                bar.update(len(batch))
        return [answers[index] for index in range(len(pairs))]

    def _pair(self, context: list[int], tokens: list[int]) -> Pair:
        if len(tokens) > self.max_length:
            raise InputError(
                f"a continuation has {len(tokens)} tokens, but the model has {self.max_length} "
                "positions"
            )
        ids = (*context, *tokens)[-(self.max_length + 1) :]
        pair = Pair(ids[: len(ids) - len(tokens)], ids[len(ids) - len(tokens) :])
        pair.check(self._generator.model.config.vocab_size, self.max_length)
        return pair

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Of whole texts, in windows of all positions where they are longer than the model's."""
        windows = [list(self._windows(request.args[0])) for request in requests]
        everything = list(itertools.chain.from_iterable(windows))
        scores = iter(self._loglikelihood_tokens(everything, disable_tqdm))
        answers = []
        for request, own in zip(requests, windows, strict=True):
            answer = math.fsum(logprob for logprob, _ in itertools.islice(scores, len(own)))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, answer)
            answers.append(answer)
        return answers

    def _windows(self, text: str) -> Iterator[TokenRequest]:
        windows = get_rolling_token_windows(
            self.tok_encode(text), self._prefix, self.max_length, context_len=1
        )
        for context, tokens in map(make_disjoint_window, windows):
            yield None, context, tokens

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Texts up to the first of their `until`, by greedy choice or as their options say."""
        asked = [
            self._request(*request.args, seed=number) for number, request in enumerate(requests)
        ]
        order = sorted(range(len(asked)), key=lambda index: -len(asked[index][0].tokens))
        answers: dict[int, str] = {}
        with tqdm(total=len(order), unit=" texts", disable=disable_tqdm or None) as bar:
            for start in range(0, len(order), self._batch_size):
                batch = order[start : start + self._batch_size]
                texts = self._generate([asked[index] for index in batch])
                for index, text in zip(batch, texts, strict=True):
                    answers[index] = text
                    self.cache_hook.add_partial("generate_until", requests[index].args, text)
                bar.update(len(batch))
        return [answers[index] for index in range(len(order))]

    def _request(
        self, context: str, settings: dict[str, Any], *, seed: int
    ) -> tuple[Request, list[str]]:
        """A context and the harness's settings as a request, and the texts at which it ends.

        A sampled one has a `seed` of its own, so that repetitions differ.
        """
        given: dict[str, Any] = dict(normalize_gen_kwargs(settings))
        end = self._generator.tokenizer.decode([self.eot_token_id], skip_special_tokens=False)
        until, limit = handle_stop_sequences(given.pop("until"), end), given.pop("max_gen_toks")
        if not given.pop("do_sample"):
            given["temperature"] = 0.0
        for name in given.keys() - _OPTION_NAMES:
            if name not in _FIXED or given[name] != _FIXED[name]:
                raise InputError(f"gen_kwargs: {name} {given[name]!r} is not supported")
        if limit >= self.max_length:
            raise InputError(
                f"max_gen_toks is {limit}, but the model has {self.max_length} positions; "
                "leave some for the context"
            )
        ids = self.tok_encode(context)[-(self.max_length - limit) :] or [self._prefix]
        options = GenerationOptions(**{"seed": seed} | given | _FIXED, max_new_tokens=limit)
        return Request(tuple(ids), options.resolve(self._generator.defaults)), until

    def _generate(self, asked: Sequence[tuple[Request, list[str]]]) -> list[str]:
        """The harness looks for the texts to stop at in what is generated alone, and so here."""
        generator = self._generator
        requests = [request for request, _ in asked]
        eos = generator.eos_token_ids
        for rows in run(generator.model, requests, eos=eos, stride=_STRIDE):
            texts = [generator.tokenizer.decode(list(row.tokens)) for row in rows]
            ended = (
                row.finish_reason or any(stop and stop in text for stop in until)
                for row, text, (_, until) in zip(rows, texts, asked, strict=True)
            )
            if all(ended):
                break
        return [
            postprocess_generated_text(text, until, None)
            for text, (_, until) in zip(texts, asked, strict=True)
        ]


def _number(name: str, value: int | str) -> int:
    """The harness leaves the choice to the model with "auto"."""
    if value == "auto":
        return 8
    if not str(value).isdecimal() or int(value) < 1:
        raise InputError(f"{name} must be a whole number of at least 1, or auto, not {value!r}")
    return int(value)
