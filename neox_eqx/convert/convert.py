"""A conversion from beginning to end."""

from pathlib import Path
from typing import Any, Literal

from neox_eqx.checkpoint.origin import TextOriginOptions, copy_companions
from neox_eqx.convert.calibrate import calibrated
from neox_eqx.convert.cast import cast, in_numbers, rounded
from neox_eqx.convert.certificate import certify, write_certificate
from neox_eqx.convert.change import change
from neox_eqx.convert.config_out import result_config, to_text
from neox_eqx.convert.forward import compare
from neox_eqx.convert.hashes import describe_text
from neox_eqx.convert.hf_out import write_hf
from neox_eqx.convert.native_out import write_native
from neox_eqx.convert.neox.read import NeoxOptions
from neox_eqx.convert.neox.write import write_neox
from neox_eqx.convert.read import read_source
from neox_eqx.convert.source import CONFIG, Layout, Source, read_tensors
from neox_eqx.convert.words import Sample, sample_of, tokens_of
from neox_eqx.destination import new_directory
from neox_eqx.errors import InputError


def convert(
    source: str | Path,
    destination: str | Path,
    *,
    to: Layout,
    dtype: Literal["same", "float32", "bfloat16", "float16"] = "same",
    quantize: str | None = None,
    text: Path | None = None,
    calibrate: Path | None = None,
    max_shard_bytes: int = 5 * 10**9,
    tensor_parallel: int = 1,
    neox_layout: Literal["pipeline", "sequential"] = "pipeline",
    verify: bool = True,
    origin: TextOriginOptions = TextOriginOptions(),
    neox: NeoxOptions = NeoxOptions(),
) -> dict[str, Any]:
    """Writes a checkpoint in another layout and returns the certificate that lies beside it.

    Only a block of one tensor is in memory at a time. With `verify`, the model is compared with
    transformers in float32, where both fit into memory. `destination` must be absent or empty,
    and comes into being whole. "same" is float32 for a LoRA adapter, which is merged in it, and for
    weights in few bits where the result has them as numbers. With `quantize`, a name in FORMATS,
    the weights of the layers and of the head are rounded to few bits, and the certificate says how
    far they are off. With `text`, a file of text, it also says how the model changes on that. With
    `calibrate`, a file of texts, 4 bits are chosen so that what layers make of them changes little.
    `origin` and `neox` are those of `read_source`.

    Raises:
        InputError: options do not go together, the source is incomplete or cannot be represented,
            a text cannot be read, or the destination cannot be written; nothing is left of it then.
    """
    _check_options(to, quantize, text, calibrate)
    original = read_source(source, origin, neox)
    if original.adapter is not None and dtype == "same":
        dtype = "float32"  # in which it is merged
    wanted = _wanted(original, to, dtype, quantize)
    with new_directory(Path(destination)) as directory:
        copy_companions(original.companions, directory)
        tokens = None if text is None else tokens_of(text, directory)
        sample = None if calibrate is None else _sample(original, calibrate, directory)
        wanted = wanted if sample is None else calibrated(original, wanted, sample.rows)
        config_json = None if to == "neox" else result_config(wanted, dtype)
        if to == "neox":
            write_neox(wanted, directory, tensor_parallel=tensor_parallel, layout=neox_layout)
        elif to == "hf":
            write_hf(wanted.entries, directory, max_shard_bytes)
        else:
            write_native(wanted.entries, directory)
        result = read_tensors(directory, config_json) if config_json else read_source(directory)
        last = {CONFIG: to_text(config_json)} if config_json else {}
        certificate = certify(original, wanted, result, directory)
        described = {name: describe_text(content) for name, content in last.items()}
        certificate["result"]["files"] |= described
        if quantize is not None:
            certificate["quantization"] = change(original, result, quantize, tokens, sample)
        certificate["forward"] = (
            compare(original, wanted, result, directory) if verify else {"skipped": "--no-verify"}
        )
        write_certificate(certificate, directory)
        # Last: without its config.json nothing loads, so what was killed before is no model.
        for name, content in last.items():
            (directory / name).write_text(content, encoding="utf-8")
    return certificate


def _check_options(
    to: Layout, quantize: str | None, text: Path | None, calibrate: Path | None
) -> None:
    if quantize != "int4" and calibrate is not None:
        raise InputError("--calibrate is for weights in 4 bits; add --quantize int4")
    if quantize is None and text is not None:
        raise InputError("--text is what a rounded model is measured on; add --quantize")
    if quantize is not None and to != "native":
        raise InputError("weights in few bits are in the native layout alone; take --to native")


def _sample(original: Source, calibrate: Path, directory: Path) -> Sample:
    if original.form is not None:
        raise InputError(
            f"{original.directory}: has its weights in {original.form} already; calibrate what it "
            "was made from"
        )
    return sample_of(calibrate, directory, original.checkpoint.config.context_length)


def _wanted(original: Source, to: Layout, dtype: str, quantize: str | None) -> Source:
    """The source as it is to be written; what is in few bits stays so where the layout has that."""
    if quantize is not None:
        return cast(rounded(original, quantize), dtype)
    keeps = to == "native" and dtype == "same"
    return original if keeps else cast(in_numbers(original), dtype)
