"""Completions of texts: the checkpoint, its tokenizer and the generation loop together."""

import dataclasses
import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from neox_eqx.checkpoint.load import load_found
from neox_eqx.checkpoint.origin import find
from neox_eqx.errors import InputError
from neox_eqx.generation.options import GenerationOptions, ResolvedOptions
from neox_eqx.generation.run import Request, room, run
from neox_eqx.generation.stop_strings import TokenBytes
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.prompt import read_prompt
from neox_eqx.model.segment import Segment
from neox_eqx.sharding.distributed import agreed, check_equal
from neox_eqx.text.batches import batches
from neox_eqx.text.completion import Completion, Event, GrowingText
from neox_eqx.text.generation_config import bos_token_id, eos_token_ids, read_generation_config
from neox_eqx.text.soft_prompt import agreed_prompt
from neox_eqx.text.tokenizer import load_tokenizer, prompt_tokens
from neox_eqx.text.words import bad_word_ids, token_bytes
from neox_eqx.tokenizer import Tokenizer

_DEFAULTS = GenerationOptions()


@dataclasses.dataclass(frozen=True)
class TextGenerator:
    """A model with its tokenizer and the object of its generation_config.json.

    Example:
        >>> generator = TextGenerator.load(DEMO_MODEL)
        >>> completion, = generator.generate(["How many legs do 3 cats have?"])
    """

    model: GPTNeoX
    tokenizer: Tokenizer
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    mask_unknown_tokens: bool = False
    """Never choose ids that the tokenizer does not have (padding rows of the vocabulary)."""
    bitwise: bool = False
    """Give a request the same bits whatever it runs with, on the same devices: every program has
    a fixed number of prompts of one length in slots and of the same options, filled up where
    there are fewer."""
    past: tuple[Segment, ...] = ()
    """What stands before every prompt."""

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        base: str | Path | None = None,
        tokenizer: str | Path | None = None,
        dtype: str | None = None,
        mesh: Mesh | str | None = None,
        quantize: str | None = None,
        mask_unknown_tokens: bool = False,
        bitwise: bool = False,
        soft_prompt: str | Path | None = None,
    ) -> "TextGenerator":
        """Loads a checkpoint directory in Hugging Face or native layout, or a Hub id.

        `revision` is a branch, tag or commit of a Hub id, which may also stand in it, as in
        ID@step3000; `base` names the model of a LoRA adapter, if it is not where the adapter
        says; `tokenizer` is a directory or Hub id to take the tokenizer from instead.
        `dtype` is that of the parameters and of the computation: float32 on a CPU and bfloat16
        on an accelerator unless given. `mesh` and `quantize` are those of `load`. `soft_prompt`
        is a directory of PEFT's format with a soft prompt, or a prefix of keys and values, which
        stands before every prompt and takes positions of the context.

        Raises:
            InputError: something is missing or broken; the message names the file.
        """
        with agreed():
            origin = find(source, revision=revision, base=base, tokenizer=tokenizer)
            directory = origin.directory
            words = load_tokenizer(origin.tokenizer)
            defaults = read_generation_config(directory)
        what = f"{directory}, its tokenizer or generation_config.json,"
        check_equal(what, (words.to_str(), defaults))
        # Before the model, which may take minutes to load.
        prompts = [agreed_prompt(soft_prompt, directory / "config.json")] if soft_prompt else []
        model = load_found(origin, dtype=dtype, mesh=mesh, quantize=quantize)
        past = tuple(read_prompt(prompt, model) for prompt in prompts)
        return cls(model, words, defaults, mask_unknown_tokens, bitwise, past)

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """From generation_config.json where it says, else from config.json."""
        return eos_token_ids(self.defaults, self.model.config)

    def generate(
        self,
        prompts: Sequence[str],
        options: GenerationOptions | Sequence[GenerationOptions] = _DEFAULTS,
        *,
        batch_size: int = 8,
        progress: bool = False,
    ) -> list[Completion]:
        """The completions in the order of the prompts, those of one prompt next to each other.

        `options` are for all prompts or one for each; `batch_size` prompts run together.
        `progress` shows a bar on stderr if that is a terminal, where it stays if no other one
        is above it.

        Raises:
            InputError: an option is out of range or a prompt does not fit.
        """
        requests = self._requests(prompts, options)
        total = sum(request.options.num_completions for request in requests)
        finished = {}
        hidden = None if progress else True
        with tqdm(total=total, unit=" completions", leave=None, disable=hidden) as bar:
            for event in self._events(prompts, requests, batch_size, stride=None):
                if event.completion:
                    finished[event.row] = event.completion
                    bar.update()
        return [finished[number] for number in sorted(finished)]

    def stream(
        self,
        prompts: Sequence[str],
        options: GenerationOptions | Sequence[GenerationOptions] = _DEFAULTS,
        *,
        batch_size: int = 8,
    ) -> Iterator[Event]:
        """What `generate` returns, token by token as they come; those of beams at their end.

        Raises:
            InputError: an option is out of range or a prompt does not fit, before any token.
        """
        return self._events(prompts, self._requests(prompts, options), batch_size, stride=1)

    def _requests(
        self, prompts: Sequence[str], options: GenerationOptions | Sequence[GenerationOptions]
    ) -> list[Request]:
        requests = []
        each = zip(prompts, _one_each(options, prompts), strict=True)
        for number, (prompt, own) in enumerate(each, 1):
            try:
                requests.append(self._request(prompt, own))
            except InputError as error:
                if len(prompts) == 1:
                    raise
                where = f"prompt {number} of {len(prompts)}, which begins {prompt!r:.32}"
                raise InputError(f"{where}: {error}") from error
        return requests

    def _events(
        self,
        prompts: Sequence[str],
        requests: Sequence[Request],
        batch_size: int,
        stride: int | None,
    ) -> Iterator[Event]:
        if batch_size < 1:
            raise InputError(f"batch_size must be a whole number of at least 1, not {batch_size}")
        return self._events_of(prompts, requests, batch_size, stride)

    def _events_of(
        self,
        prompts: Sequence[str],
        requests: Sequence[Request],
        batch_size: int,
        stride: int | None,
    ) -> Iterator[Event]:
        texts = [
            GrowingText(self.tokenizer, number, prompt, request, sample)
            for number, (prompt, request, sample) in enumerate(
                (prompt, request, sample)
                for prompt, request in zip(prompts, requests, strict=True)
                for sample in range(request.options.num_completions)
            )
        ]
        texts_stop = any(request.options.stop_strings for request in requests)
        counts = [request.options.num_completions for request in requests]
        firsts = list(itertools.accumulate(counts, initial=0))
        for batch in batches(
            requests, batch_size, in_order=stride is not None, bitwise=self.bitwise
        ):
            rows_of = run(
                self.model,
                [requests[index] for index in batch.indices],
                eos=self.eos_token_ids,
                known=self._known_tokens() if self.mask_unknown_tokens else None,
                token_bytes=self._token_bytes if texts_stop else (),
                past=self.past,
                stride=stride,
                multiple=batch.multiple,
                among=batch.among,
            )
            growing = [
                text for index in batch.indices for text in texts[firsts[index] : firsts[index + 1]]
            ]
            for rows in rows_of:
                for text, row in zip(growing, rows, strict=True):
                    yield from text.read(row)

    def _known_tokens(self) -> np.ndarray:
        known = np.zeros(self.model.config.vocab_size, bool)
        ids = np.array(list(self.tokenizer.get_vocab(with_added_tokens=True).values()))
        known[ids[ids < len(known)]] = True
        return known

    def _request(self, prompt: str, options: GenerationOptions) -> Request:
        bos = bos_token_id(self.defaults, self.model.config)
        tokens = prompt_tokens(self.tokenizer, prompt, bos)
        request = Request(tokens, self._with_ids(options.resolve(self.defaults)))
        request.options.check_ids(self.model.config.vocab_size)
        request.options.new_tokens(len(tokens), room(self.model, self.past))
        _warn_of_idle_options(options, request.options)
        return request

    def _with_ids(self, options: ResolvedOptions) -> ResolvedOptions:
        """The options with the token ids of bad words that are texts."""
        bad = [
            ids
            for word in options.bad_words
            for ids in (bad_word_ids(self.tokenizer, word) if isinstance(word, str) else [word])
        ]
        return dataclasses.replace(options, bad_words=tuple(bad))

    @cached_property
    def _token_bytes(self) -> TokenBytes:
        return token_bytes(self.tokenizer)


def _one_each(
    options: GenerationOptions | Sequence[GenerationOptions], prompts: Sequence[str]
) -> Sequence[GenerationOptions]:
    if isinstance(prompts, str):
        raise InputError(f"prompts must be a list of texts, not the text {prompts[:30]!r}")
    if isinstance(options, GenerationOptions):
        return [options] * len(prompts)
    if len(options) != len(prompts):
        raise InputError(f"there are {len(options)} options for {len(prompts)} prompts")
    return options


def _warn_of_idle_options(given: GenerationOptions, options: ResolvedOptions) -> None:
    """Warns of what was given and changes nothing."""
    names = ("top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
    idle = [name for name in names if getattr(given, name) is not None]
    if given.num_samples > 1:
        idle.append("num_samples")
    if idle and options.temperature == 0:
        warnings.warn(
            f"the temperature is 0, which takes the most likely token and makes {', '.join(idle)} "
            "of no use; give a temperature to sample",
            stacklevel=2,
        )
    of_search = ("length_penalty", "early_stopping")
    idle = [name for name in of_search if getattr(given, name) is not None]
    if idle and options.num_beams == 1:
        warnings.warn(
            f"there is no search, for which {', '.join(idle)} would be of use; give num_beams",
            stacklevel=2,
        )
