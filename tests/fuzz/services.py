"""Cases of what other programs say or are told: the Hub, the harness, and podrun's hosts."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from neox_eqx.harness.arguments import ARGUMENTS
from tests.fuzz import commands
from tests.fuzz.case import MODEL, Case, Edit
from tests.fuzz.faults import NUMBERS, TEXTS, Draw, faulty_bytes, faulty_json
from tests.hub import COMMIT

_ENDS = (
    "*",
    MODEL,
    "/revision/main",
    "/main",
    "config.json",
    "model.safetensors",
    "tokenizer.json",
)
_HEADERS = (
    *(
        {"ETag": ""},
        {"ETag": '"' + "x" * 5000 + '"'},
        {"ETag": '"../../../../x"'},
        {"X-Repo-Commit": ""},
    ),
    *({"X-Repo-Commit": "../../../x"}, {"X-Repo-Commit": "x" * 300}, {"Content-Length": "-1"}),
    *({"Content-Length": "99999999999"}, {"Content-Length": "x"}, {"Content-Encoding": "gzip"}),
    *(
        {"Location": "http://127.0.0.1:1/x"},
        {"Location": ""},
        {"Content-Type": "text/html; charset=x"},
    ),
    *(
        {"X-Linked-Size": "-5"},
        {"X-Linked-ETag": "\x1b[31m"},
        {"X-Error-Message": "no\x1b[31m" * 500},
    ),
    *(
        {"X-Error-Code": "GatedRepo"},
        {"X-Error-Code": "RevisionNotFound"},
        {"X-Error-Code": "x"},
        {},
    ),
)
_INFO: dict[str, Any] = {
    "id": MODEL,
    "sha": COMMIT,
    "siblings": [
        {"rfilename": name}
        for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    ],
    "private": False,
    "tags": [],
    "lastModified": "2024-01-01T00:00:00.000Z",
}


def of_hub(draw: Draw, bases: Mapping[str, Path]) -> Case:
    """Answers of the Hub with faults, and a command that asks it for a model."""
    answers = {}
    for _ in range(draw(st.sampled_from((1, 1, 2)))):
        answer: dict[str, Any] = {"headers": draw(st.sampled_from(_HEADERS))}
        # Others are asked again after many seconds.
        answer["status"] = draw(
            st.sampled_from((200, 200, 200, 200, 204, 302, 401, 403, 404, 410, 418))
        )
        what = draw(st.sampled_from(("info", "info", "info", "bytes", "cut", "usual")))
        if what == "info":
            answer["body"] = faulty_json(draw, _INFO).decode("latin-1")
        elif what == "bytes":
            answer["body"] = faulty_bytes(draw, json.dumps(_INFO).encode()).decode("latin-1")
        elif what == "cut":
            answer["cut"] = draw(st.integers(0, 40))
        answers[draw(st.sampled_from(_ENDS))] = answer
    name = draw(st.sampled_from((MODEL, MODEL, f"{MODEL}@main", f"{MODEL}@{COMMIT}", "somebody/x")))
    program, args, stdin = commands.of_model(draw, ("--model", name))
    return Case("the Hub's answers", program, args, ("texts",), (), stdin, answers)


def of_hosts(draw: Draw, bases: Mapping[str, Path]) -> Case:
    """A list of hosts, in podrun's file or in its option, and options beside it."""
    values = st.one_of(
        st.sampled_from((*TEXTS, *NUMBERS, "a..b", "-x", "me@here", "a b", "a,b,a", ",", "[::1]")),
        st.sampled_from(("-i", "-c", "-w", "--check", "--", "--hosts", "--hosts=", "-h", "true")),
        st.text(max_size=9),
    )
    lines = draw(st.lists(values, max_size=3))
    content = (
        draw(st.sampled_from(("\n", "\r\n", "#", "\0")))
        .join(("a", *lines))
        .encode(draw(st.sampled_from(("utf-8", "utf-8-sig", "utf-16"))), "surrogatepass")
    )
    args = draw(st.lists(values, max_size=3))
    args = [arg.replace("\0", "").encode("utf-8", "replace").decode() for arg in args]
    hosts = draw(st.sampled_from(((), ("--hosts", "podips.txt"), ("--hosts", "a,b"))))
    edit = Edit("podips.txt", "bytes", content)
    return Case("reading hosts", "read", ("hosts", *hosts, *args, "true"), (), (edit,))


def of_harness_alone(draw: Draw, bases: Mapping[str, Path]) -> Case:
    """As `of_harness`, of which no more is asked than that they are read."""
    case = of_harness(draw, bases)
    return dataclasses.replace(case, program="read", args=("harness", *case.args))


def of_harness(draw: Draw, bases: Mapping[str, Path]) -> Case:
    """Arguments of the harness's model."""
    pairs = {
        "pretrained": draw(st.sampled_from(("model", "model", "model", "nowhere", "somebody/x")))
    }
    values = st.one_of(
        st.sampled_from((*TEXTS, *NUMBERS, "True", "None", "{}", "[1]", "data=1")),
        st.text(max_size=9),
    )
    names = (
        *ARGUMENTS,
        "peft",
        "delta",
        "trust_remote_code",
        "device",
        "subfolder",
        "think_end_token",
        "x",
    )
    for _ in range(draw(st.integers(1, 3))):
        pairs[draw(st.sampled_from(names))] = draw(values)
    text = ",".join(f"{name}={value}" for name, value in pairs.items())
    if draw(st.integers(0, 4)) == 0:
        text = draw(
            st.sampled_from(
                (json.dumps(pairs), text + ",", "=" + text, text + ",=,", "", "pretrained")
            )
        )
    batch = draw(
        st.sampled_from(("1", "1", "auto", "auto:2", "0", "-1", "x", "9" * 5000, "1.5", "²"))
    )
    clean = text.replace("\0", "").encode("utf-8", "replace").decode()
    return Case("harness arguments", "harness_model.py", (clean, batch), ("model", "texts"))
