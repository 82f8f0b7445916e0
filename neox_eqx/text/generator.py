"""Completions of texts: the checkpoint, its tokenizer and the generation loop together."""

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from neox_eqx.checkpoint.checkpoint import Checkpoint
from neox_eqx.checkpoint.load import LoadOptions, load_checkpoint
from neox_eqx.checkpoint.load_prompt import agreed_prompt
from neox_eqx.checkpoint.origin import Origin, find
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.generation.decoding.run import Request, check_tokens, room
from neox_eqx.generation.options.generation_options import GenerationOptions
from neox_eqx.generation.vocabulary import TokenBytes, Vocabulary
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.prompt import read_prompt
from neox_eqx.model.segment import Segment
from neox_eqx.sharding.distributed import agreed, check_equal
from neox_eqx.text.completion import Completion, Event
from neox_eqx.text.events import events_of, finished
from neox_eqx.text.generation_config import bos_token_id, eos_token_ids, read_generation_config
from neox_eqx.text.prompts import Prompt, asked, given, warn_of_idle_options, with_stops
from neox_eqx.text.saved import save_with_companions
from neox_eqx.text.template import ChatTemplate, load_template
from neox_eqx.text.tokenizer import load_tokenizer, prompt_tokens
from neox_eqx.text.words import known_tokens, token_bytes, with_ids
from neox_eqx.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class TextGenerator:
    """A model with its tokenizer and the object of its generation_config.json.

    Examples:
        >>> generator = TextGenerator.load(DEMO_MODEL)
        >>> completion, = generator.generate(["How many legs do 3 cats have?"], max_new_tokens=40)
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
    directory: Path | None = None
    """Where the tokenizer is from, and with it the chat template."""
    template_name: str | None = None
    """Of the chat template, where it is not the directory's own."""
    companions: tuple[Path, ...] = ()
    """The files of the tokenizer, its template and the settings, which go with the weights."""

    @classmethod
    def load(
        cls,
        source: str | Path | Origin,
        *,
        revision: str | None = None,
        base: str | Path | None = None,
        tokenizer: str | Path | None = None,
        dtype: str | None = None,
        mesh: Mesh | str | None = None,
        quantize: str | None = None,
        cache_bits: int | None = None,
        mask_unknown_tokens: bool = False,
        bitwise: bool = False,
        soft_prompt: str | Path | None = None,
        template: str | None = None,
    ) -> "TextGenerator":
        """Loads a checkpoint directory in Hugging Face or native layout, or a Hub id.

        `revision` is a branch, tag or commit of a Hub id, which may also stand in it, as in
        ID@step3000; `base` names the model of a LoRA adapter, if it is not where the adapter
        says; `tokenizer` is a directory or Hub id to take the tokenizer from instead. An `Origin`,
        which `find` gave, says all of this itself.
        `dtype` is that of the parameters and of the computation: float32 on a CPU and bfloat16
        on an accelerator unless given. `mesh`, `quantize` and `cache_bits` are those of `load`.
        `soft_prompt` is a directory of PEFT's format with a soft prompt, or a prefix of keys and
        values, which stands before every prompt and takes positions of the context. `template`
        names the chat template of a model that has none of its own, as dolly or kullm.

        Raises:
            InputError: something is missing or broken; the message names the file.
        """
        with agreed():
            if isinstance(source, Origin):
                origin = source
            else:
                origin = find(source, revision=revision, base=base, tokenizer=tokenizer)
            directory = origin.directory
            GPTNeoXConfig.from_file(directory / "config.json")  # Else it is not a model at all.
            words = load_tokenizer(origin.tokenizer)
            defaults = read_generation_config(directory)
            if template is not None:
                load_template(origin.tokenizer, template)
        what = f"{directory}, its tokenizer or generation_config.json,"
        check_equal(what, (words.to_str(), defaults))
        # Before the model, which may take minutes to load.
        prompts = [agreed_prompt(soft_prompt, directory / "config.json")] if soft_prompt else []
        options = LoadOptions(dtype=dtype, mesh=mesh, quantize=quantize, cache_bits=cache_bits)
        model = load_checkpoint(Checkpoint.open(origin), options)
        past = tuple(read_prompt(prompt, model) for prompt in prompts)
        return cls(
            model,
            words,
            defaults,
            mask_unknown_tokens,
            bitwise,
            past,
            directory=origin.tokenizer,
            template_name=template,
            companions=origin.companions,
        )

    def save(self, directory: str | Path) -> None:
        """Writes model, tokenizer, chat template and settings; `load(directory)` gives the same.

        transformers loads it too. What an option of `load` added is not in it: a soft prompt, or
        a template by name. Otherwise as `neox_eqx.save`.

        Raises:
            InputError: as `neox_eqx.save`, or the generator is not from `load`.
        """
        save_with_companions(self.model, directory, self.companions, self.defaults)

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """From generation_config.json where it says, else from config.json."""
        return eos_token_ids(self.defaults, self.model.config)

    @cached_property
    def template(self) -> ChatTemplate:
        """How conversations are written.

        Raises:
            InputError: the model has no chat template and none is named, or it is broken.
        """
        if self.directory is None:
            raise InputError("a generator that is not loaded from a directory has no chat template")
        return load_template(self.directory, self.template_name)

    def generate(
        self,
        prompts: Sequence[Prompt],
        options: GenerationOptions | Sequence[GenerationOptions] | None = None,
        *,
        batch_size: int = 8,
        progress: bool = False,
        **values: Any,
    ) -> list[Completion]:
        """The completions in the order of the prompts, those of one prompt next to each other.

        A prompt is a text, or a list of messages with role and content, which the model's chat
        template writes. `options` are for all prompts or one for each, and those for all may be
        given by name instead, as in `generate(prompts, max_new_tokens=10)`; where they name no
        `stop`, a conversation stops where its template says. `batch_size` prompts run together.
        One that fails has the `finish_reason` "error" and an `error`; the others are not touched.
        `progress` shows a bar on stderr if that is a terminal, where it stays if no other one
        is above it.

        Raises:
            InputError: an option is out of range or a prompt does not fit.
        """
        texts, requests = asked(self.request, prompts, given(options, values))
        total = sum(request.options.num_completions for request in requests)
        return finished(self.events(texts, requests, batch_size), total, progress=progress)

    def stream(
        self,
        prompts: Sequence[Prompt],
        options: GenerationOptions | Sequence[GenerationOptions] | None = None,
        *,
        batch_size: int = 8,
        **values: Any,
    ) -> Iterator[Event]:
        """What `generate` returns, token by token as they come; those of beams at their end.

        Raises:
            InputError: an option is out of range or a prompt does not fit, before any token.
        """
        texts, requests = asked(self.request, prompts, given(options, values))
        return self.events(texts, requests, batch_size, stride=1)

    def request(self, prompt: Prompt, options: GenerationOptions) -> tuple[str, Request]:
        """The text of a prompt, and its tokens with options that are settled.

        Raises:
            InputError: as `generate`.
        """
        if isinstance(prompt, str):
            text, bare = prompt, False
        else:
            text, bare = self.template.render(prompt), not self.template.add_special_tokens
            options = with_stops(options, self.template)
        bos = bos_token_id(self.defaults, self.model.config)
        tokens = prompt_tokens(self.tokenizer, text, bos, add_special_tokens=not bare)
        request = Request(tokens, with_ids(options.resolve(self.defaults), self.tokenizer))
        check_tokens(tokens, self.model.config.vocab_size)
        request.options.check_ids(self.model.config.vocab_size)
        request.options.new_tokens(len(tokens), room(self.model, self.past))
        warn_of_idle_options(options, request.options)
        return text, request

    def vocabulary(self, requests: Sequence[Request]) -> Vocabulary:
        """What `run` is told of the model's tokenizer for these requests."""
        texts_stop = any(request.options.stop_strings for request in requests)
        size = self.model.config.vocab_size
        return Vocabulary(
            eos=self.eos_token_ids,
            allowed=known_tokens(self.tokenizer, size) if self.mask_unknown_tokens else None,
            token_bytes=self._token_bytes if texts_stop else (),
        )

    def events(
        self,
        prompts: Sequence[str],
        requests: Sequence[Request],
        batch_size: int,
        *,
        stride: int | None = None,
        done: Collection[int] = (),
    ) -> Iterator[Event]:
        """As `events_of`."""
        if batch_size < 1:
            raise InputError(f"batch_size must be a whole number of at least 1, not {batch_size}")
        return events_of(
            self.model,
            self.tokenizer,
            prompts,
            requests,
            self.vocabulary(requests),
            batch_size=batch_size,
            stride=stride,
            bitwise=self.bitwise,
            done=done,
            past=self.past,
        )

    @cached_property
    def _token_bytes(self) -> TokenBytes:
        return token_bytes(self.tokenizer)
