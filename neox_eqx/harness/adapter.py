"""Our checkpoints as a model of the harness, which answers as its transformers backend does."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import lm_eval.models  # noqa: F401  its own models, which it would not register after ours
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import (
    get_rolling_token_windows,
    make_disjoint_window,
    simple_parse_args_string,
)
from tqdm import tqdm

from neox_eqx.checkpoint.origin import find
from neox_eqx.errors import InputError
from neox_eqx.generation.decoding.run import Request
from neox_eqx.generation.options.values import check_number
from neox_eqx.harness.arguments import batch_rows, model_arguments, read_dtype
from neox_eqx.harness.chat import Chat
from neox_eqx.harness.continuations import Continuation, continue_texts
from neox_eqx.harness.encoding import Encoding
from neox_eqx.harness.failures import FAILURES
from neox_eqx.harness.settings import read_settings
from neox_eqx.scoring.encode import prefix_token
from neox_eqx.scoring.pairs import Pair, score_pairs
from neox_eqx.sharding.distributed import agreed, check_equal
from neox_eqx.text.generation_config import bos_token_id
from neox_eqx.text.generator import TextGenerator
from neox_eqx.tokenizer import text_of

TokenRequest = tuple[tuple[str, str] | None, list[int], list[int]]
"""Context and continuation: as texts, where the harness caches the answer, and as tokens."""


@register_model("neox_eqx")
class NeoXLM(TemplateLM):
    """A checkpoint as a model of the harness.

    The arguments are those of `--model_args`, which `ARGUMENTS` explains, and those for which the
    harness has options of its own.

    Raises:
        InputError: the checkpoint cannot be loaded, or an argument is wrong.
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
        max_length: int | None = None,
        prefix_token_id: int | None = None,
        add_bos_token: bool | None = None,
        batch_size: int | str = "auto",
        max_batch_size: int | None = None,
    ):
        super().__init__()
        with agreed():
            self._batch_size = batch_rows(batch_size, max_batch_size)
            self._origin = find(pretrained, revision=revision, base=base, tokenizer=tokenizer)
            dtype = read_dtype(dtype, self._origin)
        self._generator = TextGenerator.load(
            self._origin, dtype=dtype, mesh=mesh, quantize=quantize
        )
        config = self._generator.model.config
        self.max_length = config.context_length if max_length is None else max_length
        prefix = prefix_token(self._generator) if prefix_token_id is None else prefix_token_id
        with agreed():
            check_number("max_length", self.max_length, int, 1, config.context_length)
            if prefix is None:
                raise InputError("the model has no BOS or EOS token; give a prefix_token_id")
            check_number("prefix_token_id", prefix, int, 0, config.vocab_size - 1)
            bos = bos_token_id(self._generator.defaults, config)
            self._encoding = Encoding(self._generator.tokenizer, prefix, bos, add_bos_token)
        self._chat: Chat | None = None

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> "NeoXLM":
        """The model for `--model_args` and for the harness's own options.

        Raises:
            InputError: as the model itself, or an argument is unknown, or `pretrained` missing.
        """
        own = {name: value for name, value in (additional_config or {}).items() if value}
        own.pop("device", None)  # that of its own model
        with agreed():
            also = {"batch_size", "max_batch_size"} - own.keys()
            arguments = model_arguments(arg_dict, also)
        return cls(**arguments, **own)

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: Mapping[str, Any] | None = None
    ) -> "NeoXLM":
        """The same for arguments that stand in one text."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @property
    def tokenizer_name(self) -> str:
        """The key under which the harness caches requests."""
        return str(self._origin.tokenizer).replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes about the model into its results."""
        return {"model_dtype": str(self._generator.model.dtype), **self._origin.commits}

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Chooses the directory's template, or the one of this name, and returns its source.

        Raises:
            InputError: there is none.
        """
        if not chat_template:
            return None
        name = None if chat_template is True else chat_template
        with agreed():
            self._chat = Chat(self._origin.tokenizer, name)
        check_equal("the chat template", self._chat.source)
        return self._chat.source

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as text, up to where the assistant begins or goes on.

        Raises:
            InputError: there is no template, or it refuses the conversation.
        """
        self._chat = self._chat or Chat(self._origin.tokenizer)
        return self._chat.render(chat_history, add_generation_prompt=add_generation_prompt)

    @property
    def eot_token_id(self) -> int:
        return next(iter(self._generator.eos_token_ids), self._encoding.prefix)

    @property
    def prefix_token_id(self) -> int:
        return self._encoding.prefix

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Token ids of a text."""
        return self._encoding.ids(string, add_special_tokens)

    def _loglikelihood_tokens(
        self, requests: Sequence[TokenRequest], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Cuts contexts that do not fit at their beginning; a score that is no number is -inf."""
        with agreed():
            pairs = [self._pair(context, tokens) for _, context, tokens in requests]
        check_equal("what to score", pairs)
        answers: dict[int, tuple[float, bool]] = {}
        errors = []
        with tqdm(total=len(pairs), unit=" scores", disable=disable_tqdm or None) as bar:
            for batch in score_pairs(self._generator.model, pairs, batch_size=self._batch_size):
                for index, score in batch:
                    answers[index] = math.fsum(score.logprobs), all(score.are_greedy)
                    if score.error is not None:
                        errors.append(score.error)
                    elif texts := requests[index][0]:
                        self.cache_hook.add_partial("loglikelihood", texts, answers[index])
                bar.update(len(batch))
        FAILURES.add(errors, len(pairs), "a log-likelihood of -inf")
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
        """Scores whole texts, in windows where they are longer than the model's context."""
        windows = [list(self._windows(request.args[0])) for request in requests]
        everything = list(itertools.chain.from_iterable(windows))
        scores = iter(self._loglikelihood_tokens(everything, disable_tqdm))
        answers = []
        for request, own in zip(requests, windows, strict=True):
            answer = math.fsum(logprob for logprob, _ in itertools.islice(scores, len(own)))
            if math.isfinite(answer):
                self.cache_hook.add_partial("loglikelihood_rolling", request.args, answer)
            answers.append(answer)
        return answers

    def _windows(self, text: str) -> Iterator[TokenRequest]:
        windows = get_rolling_token_windows(
            self.tok_encode(text), self._encoding.prefix, self.max_length, context_len=1
        )
        for context, tokens in map(make_disjoint_window, windows):
            yield None, context, tokens

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generates texts up to the first of their `until`, greedily unless options say else."""
        with agreed():
            asked = [self._continuation(*own.args, seed=n) for n, own in enumerate(requests)]
        check_equal("what to continue", asked)
        answers: dict[int, str] = {}
        errors = []
        with tqdm(total=len(asked), unit=" texts", disable=disable_tqdm or None) as bar:
            for batch in continue_texts(self._generator, asked, batch_size=self._batch_size):
                for index, text in batch:
                    if isinstance(text, InputError):
                        errors.append(str(text))
                    else:
                        answers[index] = text
                        self.cache_hook.add_partial("generate_until", requests[index].args, text)
                bar.update(len(batch))
        FAILURES.add(errors, len(asked), "an empty text")
        return [answers.get(index, "") for index in range(len(asked))]

    def _continuation(self, context: str, settings: dict[str, Any], *, seed: int) -> Continuation:
        """The request for a context and the harness's settings, with the texts at which it ends.

        A sampled one has a `seed` of its own, so that repetitions differ.
        """
        end = text_of(self._generator.tokenizer, [self.eot_token_id], skip_special_tokens=False)
        options, until = read_settings(settings, end, self._generator.defaults, seed=seed)
        limit = options.max_new_tokens or 0
        if limit >= self.max_length:
            raise InputError(
                f"max_gen_toks is {limit}, but the model has {self.max_length} positions; "
                "leave some for the context"
            )
        ids = self.tok_encode(context)[-(self.max_length - limit) :] or [self._encoding.prefix]
        return Continuation(Request(tuple(ids), options), tuple(until))
