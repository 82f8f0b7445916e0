"""Our checkpoints as a model of the harness, which answers as its transformers backend does."""

import inspect
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import lm_eval.models  # noqa: F401  its own models, which it would not register after ours
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import postprocess_generated_text
from lm_eval.utils import (
    get_rolling_token_windows,
    make_disjoint_window,
    simple_parse_args_string,
)
from tqdm import tqdm

from neox_eqx.errors import InputError
from neox_eqx.generation.option_values import check_number
from neox_eqx.generation.run import Request, run
from neox_eqx.harness.settings import read_settings
from neox_eqx.scoring.encode import encode, prefix_token
from neox_eqx.scoring.pairs import Pair, score_pairs
from neox_eqx.sharding.distributed import agreed, check_equal
from neox_eqx.text.generator import TextGenerator
from neox_eqx.tokenizer import token_ids

_STRIDE = 16
"""Tokens between two looks at whether every row of a batch has met a text to stop at."""

TokenRequest = tuple[tuple[str, str] | None, list[int], list[int]]
"""Context and continuation as texts, if the cache is to have the answer, and as tokens."""


@register_model("neox_eqx")
class NeoXLM(TemplateLM):
    """A checkpoint as the harness asks for it.

    `pretrained`, `revision`, `base`, `tokenizer`, `dtype`, `mesh` and `quantize` are those of
    `TextGenerator.load`. `max_length`
    positions are used, by default all that the model has. `prefix_token_id` stands before a text
    without a context: by default BOS, or EOS where there is none. What the harness says of a
    `device` and a `max_batch_size` is for its own backends.

    Raises:
        InputError: the checkpoint cannot be loaded, or a number is out of range.
    """

    def __init__(
        self,
        pretrained: str,
        *,
        revision: str | None = None,
        base: str | None = None,
        tokenizer: str | None = None,
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
        self._generator = TextGenerator.load(
            pretrained,
            revision=revision,
            base=base,
            tokenizer=tokenizer,
            dtype=dtype,
            mesh=mesh,
            quantize=quantize,
        )
        config = self._generator.model.config
        self.max_length = config.context_length if max_length is None else max_length
        prefix = prefix_token(self._generator) if prefix_token_id is None else prefix_token_id
        with agreed():
            self._batch_size = _number("batch_size", batch_size)
            check_number("max_length", self.max_length, int, 1, config.context_length)
            if prefix is None:
                raise InputError("the model has no BOS or EOS token; give a prefix_token_id")
            check_number("prefix_token_id", prefix, int, 0, config.vocab_size - 1)
        self._prefix = prefix

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> "NeoXLM":
        """A model of `--model_args`, and of what the harness has options of its own for.

        Raises:
            InputError: as the model itself, or an argument is unknown, or `pretrained` missing.
        """
        own = {name: value for name, value in (additional_config or {}).items() if value}
        known = [name for name in inspect.signature(cls).parameters if name not in own]
        unknown = [name for name in arg_dict if name not in known]
        with agreed():
            if unknown or "pretrained" not in arg_dict:
                wrong = f"there is no {', '.join(unknown)}" if unknown else "pretrained is missing"
                raise InputError(f"model_args: {wrong}; there are {', '.join(known)}")
        return cls(**arg_dict, **own)

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: Mapping[str, Any] | None = None
    ) -> "NeoXLM":
        """The same, of arguments that stand in one text."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

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
            return list(token_ids(tokenizer, string, add_special_tokens=add_special_tokens))
        return list(encode(tokenizer, string, self._prefix))

    def _loglikelihood_tokens(
        self, requests: Sequence[TokenRequest], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """What does not fit into the model is cut off at the beginning of the context."""
        with agreed():
            pairs = [self._pair(context, tokens) for _, context, tokens in requests]
        check_equal("what to score", pairs)
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
        if not tokens:
            raise InputError("a continuation is empty: the task leaves nothing to score")
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
        with agreed():
            asked = [
                self._request(*request.args, seed=number) for number, request in enumerate(requests)
            ]
        check_equal("what to continue", asked)
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
        end = self._generator.tokenizer.decode([self.eot_token_id], skip_special_tokens=False)
        options, until = read_settings(settings, end, self._generator.defaults, seed=seed)
        limit = options.max_new_tokens or 0
        if limit >= self.max_length:
            raise InputError(
                f"max_gen_toks is {limit}, but the model has {self.max_length} positions; "
                "leave some for the context"
            )
        ids = self.tok_encode(context)[-(self.max_length - limit) :] or [self._prefix]
        return Request(tuple(ids), options), until

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
