"""Completes prompts with a GPT-NeoX model."""

import dataclasses
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import jax
import tyro

from neox_eqx import DEMO_MODEL, Event, GenerationOptions, InputError, TextGenerator
from neox_eqx.checkpoint.origin import Origin, TextOriginOptions
from neox_eqx.command_line import parse
from neox_eqx.sharding.distributed import agreed, check_equal, is_first, on_every_host
from neox_eqx.text.completion import Completion
from neox_eqx.text.conversation import Conversation
from neox_eqx.text.failed import check_completions
from neox_eqx.text.files import read_prompts
from neox_eqx.text.prompts import Prompt, as_messages
from neox_eqx.text.resume import partial_rows
from neox_eqx.text.template import load_template
from neox_eqx.text.terminal import converse
from neox_eqx.text.written import write_completions


@dataclasses.dataclass(frozen=True)
class Options:
    """Completes prompts with a GPT-NeoX model.

    What is not given comes from the checkpoint's generation_config.json, or from its config.json,
    else from transformers' defaults.
    """

    model: str | None = None
    """A directory in Hugging Face or native layout, or a Hub id, also as ID@REVISION; the demo
    model if not given."""
    prompt: tuple[str, ...] = ()
    """Texts to complete."""
    prompt_file: Path | None = None
    """A prompt a line, or .jsonl with "prompt" or "messages", and options of its own, on each."""
    chat: bool = False
    """Talk with the model: a line in, an answer out, until input ends; --prompt is said first."""
    system: str | None = None
    """What the system says before a conversation; prompts are a user's messages then."""
    template: str | None = None
    """How messages are written for a model without a chat template: one of
    dolly, kullm, koalpaca, kogpt, redpajama, stablelm-tuned, oasst, open-instruct, alpaca. Prompts
    are a user's messages then."""
    output: Path | None = None
    """Write the completions here, a JSON object each, instead of printing them. Started again after
    it was ended, the same command goes on with the rows that it has in OUTPUT.partial."""
    generation: tyro.conf.OmitArgPrefixes[GenerationOptions] = GenerationOptions()
    origin: tyro.conf.OmitArgPrefixes[TextOriginOptions] = TextOriginOptions()
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Of parameters and computation; float32 on a CPU, bfloat16 on an accelerator."""
    soft_prompt: Path | None = None
    """A directory with a soft prompt or a prefix, of neox-eqx train or PEFT, for every prompt."""
    quantize: Literal["int8", "int4"] | None = None
    """Round the weights of the layers, and of a head that is not the embedding, to 8 or 4 bits."""
    cache_bits: Literal[8] | None = None
    """Keep keys and values in 8 bits."""
    mesh: str = "auto"
    """Devices to spread rows and model over, as data=2,model=4 or as neox-eqx plan prints it."""
    batch_size: int = 8
    """Prompts that run together."""
    mask_unknown_tokens: bool = False
    """Never choose ids that the tokenizer does not have."""
    bitwise: bool = False
    """Give a prompt the same bits whatever it runs with, on the same devices; --batch-size is 8."""
    stream: bool = True
    """Print text as it comes."""


def main(options: Options) -> None:
    if options.chat:
        _chat(options)
    else:
        check_completions(_complete(options))


def _complete(options: Options) -> list[Completion]:
    """Prints or writes the completions, some of which may have failed.

    Raises:
        InputError: all of them failed, and nothing is written; or a mistake.
    """
    with ExitStack() as stack:
        with agreed():
            requests = _requests(options)
            rows = None
            if options.output and is_first():
                rows = stack.enter_context(partial_rows(options.output))
        check_equal("what to complete", requests)
        prompts, own = map(list, zip(*requests, strict=True))
        generator = _generator(options)
        if options.output:
            write_completions(generator, prompts, own, rows, batch_size=options.batch_size)
            return []
        if options.stream:
            return _print_live(generator.stream(prompts, own, batch_size=options.batch_size))
        completions = generator.generate(prompts, own, batch_size=options.batch_size, progress=True)
        if all(completion.error is not None for completion in completions):
            check_completions(completions)
        for completion in completions:
            if completion.tokens or completion.error is None:
                print(f"{completion.prompt}{completion.text}\n")
    return completions


def _chat(options: Options) -> None:
    model = DEMO_MODEL if options.model is None else options.model
    with agreed():
        if options.prompt_file or options.output:
            raise InputError("--chat talks on the terminal, without --prompt-file and --output")
        if jax.process_count() > 1:
            raise InputError("--chat runs in one process, and this is a pod of several")
        options.generation.resolve({})
        origin = options.origin.find(model)
        load_template(origin.tokenizer, options.template)  # before the weights
    generator = _generator(options, origin)
    conversation = Conversation(generator, options.generation, system=options.system)
    converse(conversation, options.prompt, stream=options.stream)


def _generator(options: Options, origin: Origin | None = None) -> TextGenerator:
    model = DEMO_MODEL if options.model is None else options.model
    return TextGenerator.load(
        origin or model,
        **options.origin.arguments,
        dtype=options.dtype,
        mesh=options.mesh,
        quantize=options.quantize,
        cache_bits=options.cache_bits,
        mask_unknown_tokens=options.mask_unknown_tokens,
        bitwise=options.bitwise,
        soft_prompt=options.soft_prompt,
        template=options.template,
    )


def _requests(options: Options) -> list[tuple[Prompt, GenerationOptions]]:
    shared = options.generation
    shared.resolve({})
    requests: list[tuple[Prompt, GenerationOptions]] = [(text, shared) for text in options.prompt]
    if options.prompt_file:
        requests += read_prompts(options.prompt_file, shared)
    elif not requests and options.model is not None:
        raise InputError("no prompt; give --prompt TEXT or --prompt-file FILE, or --chat")
    elif not requests:
        requests = read_prompts(DEMO_MODEL / "questions.txt", shared)
    if options.template is None and options.system is None:
        return requests
    return [(as_messages(prompt, options.system), own) for prompt, own in requests]


def _print_live(events: Iterable[Event]) -> list[Completion]:
    """Prints texts one after the other; of those that grow together, the first one live.

    A text that failed is printed as far as it came.
    """
    texts: dict[int, str] = {}
    finished: dict[int, Completion] = {}
    current = 0
    for event in events:
        if event.token is not None:
            texts[event.row] = texts.get(event.row, event.prompt) + event.text
        if event.completion:
            finished[event.row] = event.completion
        while current in texts or current in finished:
            if current in texts:
                print(texts[current], end="", flush=True)
                texts[current] = ""
            if current not in finished:
                break
            if texts.pop(current, None) is not None:
                print("\n")
            current += 1
    return [finished[number] for number in sorted(finished)]


def command(program: str, args: Sequence[str]) -> None:
    on_every_host(main)(parse(Options, program, args))
