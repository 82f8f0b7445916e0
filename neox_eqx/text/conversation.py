"""A conversation with a model: what is said is kept, and only what is new of it is read."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from neox_eqx.errors import InputError
from neox_eqx.generation.chunks.kept_text import KeptText
from neox_eqx.generation.options.generation_options import GenerationOptions
from neox_eqx.generation.options.resolved_options import NoRoom
from neox_eqx.text.completion import GrowingText
from neox_eqx.text.generator import TextGenerator
from neox_eqx.text.prompts import given


class AnswerFailed(InputError):
    """An answer came to nothing, and the conversation is as it was before."""


class Conversation:
    """Messages in turn, each answer written after all that was said before.

    The chat template writes the whole conversation for each prompt. Tokens with which the prompt
    before began too are not read again: their keys and values stay. An answer may be as long as
    the context allows, unless the options or the checkpoint say otherwise.

    Examples:
        >>> conversation = Conversation(TextGenerator.load(DEMO_MODEL, template="alpaca"))
        >>> answer = "".join(conversation.say("How many legs do 3 cats have?"))
    """

    def __init__(
        self,
        generator: TextGenerator,
        options: GenerationOptions | None = None,
        *,
        system: str | None = None,
        **values: Any,
    ):
        """`system` is what the system says first; options may also be given by name.

        Raises:
            InputError: the model has no chat template, or the options ask for several answers.
        """
        self.generator = generator
        self.options = _with_room(given(options, values), generator)
        self.messages: list[dict[str, str]] = []
        if system is not None:
            self.messages.append({"role": "system", "content": system})
        generator.template.render([*self.messages, {"role": "user", "content": "Hello"}])
        self._kept = KeptText(generator.model, generator.past)

    @property
    def tokens_read(self) -> int:
        """How many tokens were read for the prompts of all turns; the others were kept."""
        return self._kept.tokens_read

    def say(self, text: str) -> Iterator[str]:
        """The answer to a message of the user's, in pieces as it comes.

        When the last of them is taken, message and answer are in `messages`.

        Raises:
            AnswerFailed: the model gives no numbers, or the tokenizer breaks down over its tokens.
            InputError: the conversation no longer fits into the model's context.
        """
        asked = [*self.messages, {"role": "user", "content": text}]
        try:
            prompt, request = self.generator.request(asked, self.options)
        except InputError as error:
            turn = sum(message["role"] == "user" for message in asked)
            reason = str(error)
            if isinstance(error, NoRoom):
                reason = (
                    f"all that was said is longer than the {error.context_length} positions that "
                    "the model has; begin a new conversation, or say this in fewer words"
                )
            raise InputError(f"turn {turn} of the conversation: {reason}") from error
        growing = GrowingText(self.generator.tokenizer, 0, prompt, request, sample=0)
        spoken = Spoken(request.options.stop_strings)
        for row in self._kept.answer(request, self.generator.vocabulary([request])):
            for event in growing.read(row):
                if event.completion and event.completion.error is not None:
                    raise AnswerFailed(event.completion.error)
                # Without the text of an EOS token, which it has where it is no special token.
                yield spoken.add("" if event.finish_reason == "eos" else event.text)
        yield spoken.end(has_stopped=row.finish_reason == "stop")
        self.messages = [*asked, {"role": "assistant", "content": spoken.text}]


def _with_room(options: GenerationOptions, generator: TextGenerator) -> GenerationOptions:
    """The options, where an answer may take all the context unless they say otherwise."""
    resolved = options.resolve(generator.defaults)
    for name in ("num_samples", "num_beams"):
        if getattr(resolved, name) != 1:
            raise InputError(f"{name} is {getattr(resolved, name)}, but a turn has one answer")
    if generator.bitwise:
        raise InputError("bitwise is for prompts, and a conversation reads its own in pieces")
    if resolved.max_new_tokens is not None or resolved.max_length is not None:
        return options
    return dataclasses.replace(options, max_new_tokens=generator.model.config.context_length)


class Spoken:
    """What the assistant says, piece by piece: no stop text, and no space around it.

    It holds back what may turn out to be a stop text, or the space before one.
    """

    def __init__(self, stops: Sequence[str]):
        self.text = ""
        """All that was said so far."""
        self._stops = stops
        self._all = ""

    def add(self, text: str) -> str:
        """What is said now."""
        self._all += text
        return self._out(min(self._begun(), self._met()))

    def end(self, *, has_stopped: bool) -> str:
        """What is left at the end, before the stop text if one ended it."""
        return self._out(self._met() if has_stopped else len(self._all))

    def _met(self) -> int:
        """Where the first stop text stands, or the end."""
        starts = [self._all.find(stop) for stop in self._stops]
        return min((start for start in starts if start >= 0), default=len(self._all))

    def _begun(self) -> int:
        """Where what may become a stop text begins, or the end."""
        sizes = (
            size
            for stop in self._stops
            for size in range(1, len(stop))
            if self._all.endswith(stop[:size])
        )
        return len(self._all) - max(sizes, default=0)

    def _out(self, until: int) -> str:
        whole = self._all[:until].strip()
        new = whole[len(self.text) :]
        self.text += new
        return new
