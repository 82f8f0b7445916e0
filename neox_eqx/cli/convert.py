"""Converts a checkpoint between layouts, bit for bit, and writes a certificate of it.

neox-eqx convert EleutherAI/pythia-160m pythia-160m-native --to native
neox-eqx convert pythia-160m-native pythia-160m-hf --to hf
neox-eqx convert --check pythia-160m-hf
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from neox_eqx import InputError
from neox_eqx.checkpoint.origin import TextOriginOptions
from neox_eqx.command_line import parse
from neox_eqx.convert.check import check
from neox_eqx.convert.convert import convert
from neox_eqx.convert.hf_out import parse_size
from neox_eqx.convert.neox.read import NeoxOptions


@dataclasses.dataclass(frozen=True)
class Options:
    """Converts a checkpoint between layouts, bit for bit, and writes a certificate of it."""

    source: Annotated[str | None, tyro.conf.Positional] = None
    """A directory in Hugging Face, native or EleutherAI's layout, or a Hub id, also ID@REVISION."""
    destination: Annotated[Path | None, tyro.conf.Positional] = None
    """The directory to make; it must be absent or empty."""
    to: Literal["hf", "native", "neox"] | None = None
    """Layout of the result: Hugging Face's, native, or EleutherAI's."""
    origin: tyro.conf.OmitArgPrefixes[TextOriginOptions] = TextOriginOptions()
    check: Path | None = None
    """Instead, compare the certificate in this directory with its files."""
    dtype: Literal["same", "float32", "bfloat16", "float16"] = "same"
    """Of the parameters in the result; same keeps that of each tensor, and is float32 for a LoRA
    adapter, and for weights in few bits that become numbers."""
    quantize: Literal["int8", "int4"] | None = None
    """To the native layout: round the weights of the layers and of the head to 8 or 4 bits."""
    text: Path | None = None
    """A file of text on which the certificate compares the rounded model with the source."""
    calibrate: Path | None = None
    """A file of texts, as neox-eqx score takes it, that 4 bits are to suit."""
    max_shard_size: str = "5GB"
    """Largest file of a result in Hugging Face's layout."""
    neox: tyro.conf.OmitArgPrefixes[NeoxOptions] = NeoxOptions()
    tensor_parallel: int = 1
    """To EleutherAI: number of ranks that share each layer."""
    neox_layout: Literal["pipeline", "sequential"] = "pipeline"
    """To EleutherAI: a file for each layer, or one for all."""
    verify: bool = True
    """Compare the logits with those of transformers; hashes are taken in any case."""


def main(options: Options) -> None:
    if options.check:
        if options.source is not None or options.to is not None:
            raise InputError("--check DIR stands alone; there is nothing to convert with it")
        files, tensors = check(options.check)
        print(f"{options.check}: {files} files and {tensors} tensors are as certified")
        return
    if options.source is None or options.destination is None or options.to is None:
        raise InputError("give SRC DST --to hf|native|neox, or --check DIR")
    certificate = convert(
        options.source,
        options.destination,
        to=options.to,
        dtype=options.dtype,
        quantize=options.quantize,
        text=options.text,
        calibrate=options.calibrate,
        max_shard_bytes=parse_size(options.max_shard_size),
        tensor_parallel=options.tensor_parallel,
        neox_layout=options.neox_layout,
        verify=options.verify,
        origin=options.origin,
        neox=options.neox,
    )
    _print(options.destination, certificate)


def _print(destination: Path, certificate: dict[str, Any]) -> None:
    print(f"{destination}: {len(certificate['tensors'])} tensors, each read back and compared")
    if "quantization" in certificate:
        _print_change(certificate["quantization"])
    forward = certificate["forward"]
    if "skipped" in forward:
        print(f"not held against transformers: {forward['skipped']}")
        return
    print(
        f"logits within {forward['largest_logit_difference']:.1e} of transformers' "
        f"(their rms is {forward['logit_rms']:.1e}); "
        f"{forward['greedy_tokens_agreeing']} of {forward['greedy_tokens']} greedy tokens agree"
    )


def _print_change(change: dict[str, Any]) -> None:
    worst = change["largest_relative_error"]
    print(
        f"{change['form']} weights are off by {change['relative_error']:.2%} of their rms, at most "
        f"by {worst['of']:.2%} in {worst['tensor']}"
    )
    text = change["text"]
    if "skipped" in text:
        print(f"logits and perplexity are not compared: {text['skipped']}")
        return
    print(
        f"perplexity of {text['tokens']} tokens: {text['perplexity']:.4f}, and "
        f"{text['source_perplexity']:.4f} before; logits off by {text['logit_difference_rms']:.1e} "
        f"(their rms is {text['logit_rms']:.1e})"
    )


def command(program: str, args: Sequence[str]) -> None:
    main(parse(Options, program, args))
