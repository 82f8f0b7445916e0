"""The commands that a faulty file can reach, in combinations that a user may type."""

from collections.abc import Callable

from hypothesis import strategies as st

from tests.fuzz.bases import TRAIN
from tests.fuzz.faults import Draw

Command = tuple[str, tuple[str, ...], str]
"""A program, its arguments and what it reads on stdin."""
Drawn = Callable[[Draw], Command]

_PROMPTS = (
    ("--prompt", "How many"),
    ("--prompt", "one", "two", "--no-stream", "--batch-size", "1"),
    ("--prompt", "a", "--output", "out.jsonl"),
    ("--prompt", "a", "--num-beams", "2", "--no-stream"),
    ("--prompt", "a", "--stop", "e", "--temperature", "1", "--top-p", "0.9"),
    ("--prompt", "a", "--bad-words", "Tom", "--output", "out.jsonl"),
    ("--prompt", "a", "--mask-unknown-tokens"),
    ("--prompt", "a", "--quantize", "int8"),
    ("--prompt", "a", "--dtype", "bfloat16"),
    ("--prompt", "a", "--template", "dolly", "--system", "be short"),
    ("--prompt-file", "prompts.jsonl"),
    ("--chat",),
)
_MESSAGES = (
    ("--prompt", "a", "--system", "b"),
    ("--chat",),
    ("--prompt-file", "messages.jsonl", "--output", "out.jsonl"),
)


def of_model(draw: Draw, model: tuple[str, ...] = ("--model", "model")) -> Command:
    """A command that reads a model in any layout."""
    programs = ("generate", "generate", "generate", "score", "train", "plan", "convert", "convert")
    program = draw(st.sampled_from(programs))
    if program == "generate":
        return generate(draw, model, draw(st.sampled_from(_PROMPTS)))
    if program == "score":
        return "score.py", (*model, "--input", "texts.txt", "--output", "out.jsonl"), ""
    if program == "train":
        return train("data.jsonl", *model)
    if program == "plan":
        return "plan.py", (*model, "--topology", "v5e:1x1", "--batch-size", "0"), ""
    return _convert(draw, (model[1], "out", *model[2:]))


def _convert(draw: Draw, ends: tuple[str, ...]) -> Command:
    to = draw(st.sampled_from(("hf", "native", "neox")))
    # To hold logits against transformers' takes seconds.
    verify = draw(st.sampled_from((("--no-verify",),) * 7 + ((),)))
    dtype = draw(st.sampled_from(((), ("--dtype", "float16"))))
    return "convert_params.py", (*ends, "--to", to, *verify, *dtype), ""


def of_text(draw: Draw) -> Command:
    """A command that reads a tokenizer, most of all."""
    model = ("--model", "model")
    programs = ("generate", "generate", "generate", "messages", "score", "train")
    program = draw(st.sampled_from(programs))
    if program == "generate":
        return generate(draw, model, draw(st.sampled_from(_PROMPTS)))
    if program == "messages":
        return generate(draw, model, draw(st.sampled_from(_MESSAGES)))
    if program == "score":
        return "score.py", (*model, "--input", "texts.txt", "--output", "out.jsonl"), ""
    return train("data.jsonl", *model)


def generate(draw: Draw, model: tuple[str, ...], rest: tuple[str, ...]) -> Command:
    few = ("--max-new-tokens", draw(st.sampled_from(("1", "1", "1", "3"))))  # 1 is fastest
    stdin = "hello\nmore\n" if "--chat" in rest else ""
    return "generate.py", (*model, *few, *rest), stdin


def of_neox(draw: Draw) -> Command:
    options = (
        *((), (), ("--row-bias", "sum"), ("--row-bias", "first"), ("--padded-vocab", "cut")),
        *(("--fused-gelu", "gelu_fast"), ("--replicated", "mean"), ("--tokenizer", "model")),
    )
    source = draw(st.sampled_from(("model", "model", "model/global_step0", "./model/")))
    program, args, stdin = _convert(draw, (source, "out"))
    return program, (*args, *draw(st.sampled_from(options))), stdin


def of_certificate(draw: Draw) -> Command:
    place = draw(st.sampled_from(("model", "./model", "../work/model", "model/")))
    return "convert_params.py", ("--check", place), ""


def of_adapter(draw: Draw) -> Command:
    if draw(st.integers(0, 3)) == 0:
        return train("data.jsonl", "--adapter", "adapter", "--model", "model")
    base = draw(st.sampled_from(((), (), ("--base", "model"))))
    return of_model(draw, ("--model", "adapter", *base))


def of_prompts(draw: Draw) -> Command:
    file = draw(
        st.sampled_from(("prompts.txt", "prompts.jsonl", "prompts.jsonl", "prompts.messages.jsonl"))
    )
    rest = draw(st.sampled_from(((), ("--output", "out.jsonl"), ("--template", "alpaca"))))
    return generate(draw, ("--model", "model"), ("--prompt-file", file, *rest))


def of_scored(draw: Draw) -> Command:
    file = draw(st.sampled_from(("scored.txt", "scored.jsonl")))
    rest = draw(st.sampled_from(((), ("--skip-bad",), ("--top-candidates", "2"))))
    args = ("--model", "model", "--input", file, "--output", "out.jsonl", *rest)
    return "score.py", args, ""


def of_bias(draw: Draw) -> Command:
    rest = draw(st.sampled_from(_PROMPTS))
    return generate(draw, ("--model", "model"), ("--logit-bias", "bias.json", *rest))


def of_data(draw: Draw) -> Command:
    names = ("data.rows.jsonl", "data.text.jsonl", "data.sharegpt.jsonl", "data.array.json")
    rest = draw(
        st.sampled_from(
            (
                *((), ("--template", "alpaca"), ("--pack",), ("--max-length", "8")),
                *(("--eval-data", "data.jsonl"), ("--too-long", "cut"), ("--lora-rank", "2")),
            )
        )
    )
    data = draw(st.sampled_from((*names, "data.parquet")))
    return train(data, *rest)


def train(data: str = "data.jsonl", *rest: str) -> Command:
    return "train.py", (*TRAIN, *rest, "--data", data), ""


def of_soft_prompt(draw: Draw) -> Command:
    return generate(draw, ("--model", "model"), ("--prompt", "a", "--soft-prompt", "adapter"))


def of_run(draw: Draw) -> Command:
    return train("data.jsonl", "--steps", draw(st.sampled_from(("1", "2", "2"))))


def of_completions(draw: Draw) -> Command:
    # The numbers of new tokens of generation_config.json: as the rows come of.
    args = ("--model", "model", "--prompt-file", "texts.txt", "--output", "out.jsonl")
    return "generate.py", args, ""


def of_scores(draw: Draw) -> Command:
    rest = draw(st.sampled_from(((), ("--batch-size", "1"))))
    args = ("--model", "model", "--input", "texts.txt", "--output", "out.jsonl", *rest)
    return "score.py", args, ""
