"""The commands that a faulty file can reach, in combinations that a user may type."""

from hypothesis import strategies as st

from tests.fuzz.faults import Draw

Command = tuple[str, tuple[str, ...], str]
"""A program, its arguments and what it reads on stdin."""

_GENERATE = (
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
    ("--chat",),
)


def of_model(draw: Draw, model: str = "model") -> Command:
    """A command that reads a model."""
    program = draw(
        st.sampled_from(
            ("generate.py",) * 5 + ("score.py", "train.py", "plan.py") + ("convert_params.py",) * 2
        )
    )
    if program == "generate.py":
        args = draw(st.sampled_from(_GENERATE))
        stdin = "hello\nmore\n" if "--chat" in args else ""
        return program, ("--model", model, "--max-new-tokens", "3", *args), stdin
    if program == "score.py":
        return program, ("--model", model, "--input", "texts.txt", "--output", "out.jsonl"), ""
    if program == "train.py":
        return (
            program,
            (
                "--model",
                model,
                "--data",
                "data.jsonl",
                "--output",
                "out",
                "--steps",
                "1",
                "--batch-size",
                "1",
                "--wandb-mode",
                "disabled",
            ),
            "",
        )
    if program == "plan.py":
        return program, ("--model", model, "--topology", "v5e:1x1", "--batch-size", "0"), ""
    to = draw(st.sampled_from(("hf", "native", "neox")))
    verify = draw(st.sampled_from(("--no-verify", "--no-verify", "--verify")))
    dtype = draw(st.sampled_from(("same", "float16")))
    return program, (model, "out", "--to", to, verify, "--dtype", dtype), ""
