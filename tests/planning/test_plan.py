"""neox-eqx plan: a table, a file and a picture of what a pod would do; and which mesh is best."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from neox_eqx.errors import InputError
from neox_eqx.planning import attempts
from neox_eqx.planning.attempts import Compiler
from neox_eqx.planning.chips import CHIPS, Topology
from neox_eqx.planning.plan import make_plan
from neox_eqx.planning.wish import Wish
from neox_eqx.presets import PRESETS
from tests.commands import many
from tests.planning.made_up import FACTS

PLAN = ("-m", "neox_eqx", "plan")
COUNTS = ("all_gather", "all_to_all", "collective_permute", "collective_bytes")
BYTES = ("hbm_bytes", "hbm_bytes_minimum", "temp_bytes")


def plan(*options: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *PLAN, *options], capture_output=True, text=True)


def wish(name: str, topology: str, **options: Any) -> Wish:
    sizes = {"batch_size": 8, "prompt_len": 128, "gen_len": 128} | options
    return Wish(PRESETS[name], Topology.parse(topology), **sizes)


def test_a_plan_is_printed_written_and_drawn(tmp_path: Path) -> None:
    small = ["--batch-size", "2", "--prompt-len", "32", "--gen-len", "40", "--mesh", "model=4"]
    files = ["--json", tmp_path / "out.json", "--picture", tmp_path / "out.png"]
    ended = plan("--preset", "pythia-70m", "--topology", "v5e:2x2", *small, *files)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "pythia-70m, bfloat16: 2 x 32 tokens in, 2 x 40 out" in ended.stdout
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["fits"] is True and written["layout"] == "1d" and written["mesh"] == "model=4"
    assert written["hbm_limit_bytes"] == CHIPS["v5e"].hbm_bytes
    assert 0 < written["hbm_bytes_per_chip"] < written["hbm_limit_bytes"]
    for program in ("decode", "prefill"):
        facts = written[program]
        assert facts["all_reduce_per_layer"] == 1
        assert {type(facts[name]) for name in COUNTS + BYTES} == {int}
        assert facts["hbm_ratio"] == facts["hbm_bytes"] / facts["hbm_bytes_minimum"]
        assert facts["compile_seconds"] > 0
    assert written["decode"]["cache_aliased"] is True
    assert written["largest_batch_size"] == 1024 and written["largest_length"] == 2048
    # 6 layers of 12 D^2 weights and a head of 50304 rows, over 4 chips, and two biases and norms.
    matrices = 6 * 12 * 512**2 // 4 + 50304 * 512 // 4
    others = 6 * (3 * 512 // 4 + 512 + 2048 // 4 + 512 + 4 * 512) + 2 * 512
    # The cache of 2 rows of 32 + 64 slots.
    cache = 2 * 6 * 2 * 512 * (32 + 64) // 4
    assert written["decode"]["hbm_bytes_minimum"] == 2 * (matrices + others + cache)
    assert written["decode"]["flops"] == 2 * 2 * matrices + 2 * cache
    attention = 2 * 2 * 6 * 2 * 512 * 32 * 32 // 2 // 4
    assert written["prefill"]["flops"] == 2 * 2 * 32 * 6 * 12 * 512**2 / 4 + attention
    # What the shapes say, without a compiler: 6 layers of 8 heads of 64, over 4 chips, bfloat16.
    assert written["cache_bytes"] == 2 * 6 * 2 * 8 * 64 * (32 + 64) // 4 * 2
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_several_slices_are_compared_and_what_does_not_fit_is_an_answer(
    tmp_path: Path,
) -> None:
    ended = plan(
        *("--preset", "gpt-neox-20b", "--topology", "v5e:1x1", "v4:1x1x1"),
        *("--prompt-len", "32", "--gen-len", "32", "--json", tmp_path / "out.json"),
        *("--picture", tmp_path / "out.png"),
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "NO" in ended.stdout
    written = json.loads((tmp_path / "out.json").read_text())
    assert [one["topology"] for one in written] == ["v5e:1x1", "v4:1x1x1"]
    for one in written:
        assert one["chips"] == 1 and one["fits"] is False and one["decode"] is None
        assert one["hbm_bytes_per_chip"] > one["hbm_limit_bytes"]
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


MISTAKES: list[tuple[list[str], str]] = [
    (["--preset", "pythia-70m"], "required"),
    (["--topology", "v5e:2x2"], "give either --model or --preset"),
    (["--preset", "pythia-0b", "--topology", "v5e:2x2"], "no preset 'pythia-0b'"),
    (["--preset", "pythia-70m", "--topology", "v5e"], "not of the form v5e:4x4 or v5e-16"),
    (["--preset", "pythia-70m", "--topology", "v9:2x2"], "the chips are v4, v5e, v5p, v6e"),
    (["--preset", "pythia-70m", "--topology", "v4:2x2"], "those of v4 have 3, as v4:2x2x2"),
    (["--preset", "pythia-70m", "--topology", "v5e:3x5"], "does not know v5e:3x5"),
    (["--preset", "pythia-70m", "--topology", "v5e:16x32"], "larger than a pod of v5e, 16x16"),
    (
        ["--preset", "pythia-70m", "--topology", "v5e:2x2", "--batch-size", "1000000000"],
        "--batch-size is at most 1,000,000",
    ),
    (
        [
            *("--preset", "pythia-70m", "--topology", "v5e:2x2"),
            *("--mesh", "data=2,layout=1d", "--layout", "2d"),
        ],
        "contradict each other",
    ),
    (
        ["--preset", "pythia-70m", "--topology", "v5e:2x2", "--train", "--layout", "2d"],
        "--train is without --quantize, --cache-bits, added heads and layout 2d",
    ),
    (
        ["--preset", "pythia-70m", "--topology", "v5e:2x2", "--json", "."],
        ".: is a directory",
    ),
    (
        ["--preset", "pythia-70m", "--topology", "v5e:2x2", "--mesh", "model=3"],
        "model=3 does not divide the 8 heads",
    ),
    (
        ["--preset", "pythia-70m", "--topology", "v5e:2x2", "--gen-len", "2000"],
        "are 3024 positions, and the model has 2048",
    ),
    (
        ["--preset", "pythia-70m", "--topology", "v5e:2x2", "--batch-size", "0"],
        "--batch-size must be at least 1, not 0",
    ),
    (
        ["--preset", "pythia-70m", "--topology", "v5e:2x2", "--json", "absent/out.json"],
        "absent/out.json: no such directory to write to",
    ),
    (["--model", "absent/", "--topology", "v5e:2x2"], "absent/"),
]


def test_a_wrong_wish_is_one_line(tmp_path: Path) -> None:
    answers = many("plan", [options for options, _ in MISTAKES], tmp_path)
    for (_, message), (status, out, error) in zip(MISTAKES, answers, strict=True):
        assert (status, out) == (2, ""), (message, error)
        assert error.count("\n") == 1 and error.startswith("neox-eqx plan: error: "), error
        assert message in error
    assert not list(tmp_path.iterdir())


def test_without_the_compiler_the_error_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(attempts, "APART", tmp_path)
    with pytest.raises(InputError, match="not installed; run make tpu-compiler"):
        Compiler()


def test_the_meshes_that_are_tried() -> None:
    assert wish("gpt-neox-20b", "v5e:4x4").meshes() == [
        "data=1,model=16",
        "data=2,model=8",
        "data=2,model=8,layout=2d",
        "data=4,model=4,layout=2d",
    ]
    # 40 heads: 48 divide by 16. With layout 1d a chip of the second mesh holds half the model.
    assert wish("polyglot-ko-12.8b", "v5e:4x4", layout="1d").meshes() == [
        "data=1,model=16,heads=48",
        "data=2,model=8",
    ]
    assert wish("polyglot-ko-12.8b", "v5e:2x1", layout="1d").meshes() == ["data=1,model=2"]
    assert wish("pythia-70m", "v5e:2x2", layout="2d").meshes() == [
        "data=2,model=2,layout=2d",
        "data=4,model=1,layout=2d",
    ]
    assert wish("pythia-70m", "v5e:2x2", mesh="model=4").meshes() == ["model=4"]
    assert wish("pythia-70m", "v5e:2x2", mesh="data=2", layout="2d").meshes() == [
        "data=2,layout=2d"
    ]
    assert wish("pythia-70m", "v4:2x2x2", train=True).meshes() == [
        "data=8,model=1",
        "data=4,model=2",
        "data=2,model=4",
    ]


class Answers(Compiler):
    """Answers from a table of (program, mesh): seconds, and bytes for 8 rows of 256 positions.

    More rows or positions take `growth` times what their number says.
    """

    def __init__(
        self, table: dict[tuple[str, str], tuple[float, int]], growth: float = 1.0
    ) -> None:
        self.table, self.growth = table, growth

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        seconds, size = self.table[question["program"], question["mesh"]]
        load = question["load"]
        times = load["batch_size"] * (load["prompt_len"] + load["gen_len"]) / (8 * 256)
        size = int(size * times * (self.growth if times > 1 else 1))
        if size > Topology.parse(question["topology"]).chip.hbm_bytes:
            return {"too_large": size, "weights_bytes": 0}
        facts = dataclasses.asdict(dataclasses.replace(FACTS, bound_seconds=seconds))
        return {"facts": facts, "bytes": size, "weights_bytes": 0, "cache_bytes": 0}


def best(table: dict[tuple[str, str], tuple[float, int]], growth: float = 1.0) -> Any:
    return make_plan(wish("pythia-70m", "v5e:2x1", layout="1d"), Answers(table, growth))


GIB = 2**30


def test_the_fastest_mesh_on_which_both_programs_fit_is_best() -> None:
    both = {"data=1,model=2": 1.0, "data=2,model=1": 2.0}
    table = {(kind, mesh): (s, GIB) for mesh, s in both.items() for kind in ("decode", "prefill")}
    assert best(table).mesh == "data=1,model=2"
    assert "on data=2,model=1 2000.00 ms" in best(table).reason
    table["prefill", "data=1,model=2"] = (1.0, 99 * GIB)
    assert best(table).mesh == "data=2,model=1" and best(table).fits
    assert "on data=1,model=2 1000.00 ms, but not all fits" in best(table).reason
    table["prefill", "data=2,model=1"] = (1.0, 99 * GIB)
    assert best(table).mesh == "data=1,model=2" and not best(table).fits
    table["decode", "data=1,model=2"] = (1.0, 98 * GIB)
    table["decode", "data=2,model=1"] = (1.0, 99 * GIB)
    assert best(table).mesh == "data=1,model=2" and not best(table).fits
    assert best(table).reason == "needs the least memory, and does not fit"


def test_the_largest_batch_is_one_that_was_compiled_for() -> None:
    table = {(kind, "data=1,model=2"): (1.0, 2 * GIB) for kind in ("decode", "prefill")}
    table |= {(kind, "data=2,model=1"): (2.0, 2 * GIB) for kind in ("decode", "prefill")}
    # 15.75 GiB hold 63 rows of a quarter GiB, in steps of 8.
    assert best(table).largest_batch_size == 56
    assert best({key: (1.0, 15 * GIB) for key in table}).largest_batch_size == 8
    assert best({key: (1.0, GIB // 99) for key in table}).largest_batch_size == 1024


def test_the_longest_rows_are_those_of_the_model_or_were_compiled_for() -> None:
    table = {
        (kind, mesh): (1.0, 2 * GIB)
        for kind in ("decode", "prefill")
        for mesh in ("data=1,model=2", "data=2,model=1")
    }
    # 256 positions take 2 of 15.75 GiB; the model has 2048.
    assert best(table).largest_length == 2016
    assert best({key: (1.0, GIB) for key in table}).largest_length == 2048
    assert best({key: (1.0, 12 * GIB) for key in table}).largest_length == 336


def test_longer_rows_to_train_on_are_all_prompt_and_those_to_generate_keep_their_share() -> None:
    trained = dataclasses.replace(wish("pythia-70m", "v5e:2x1", layout="1d"), train=True, gen_len=1)
    asked: list[tuple[int, int]] = []

    class Listening(Answers):
        def ask(self, question: dict[str, Any]) -> dict[str, Any]:
            asked.append((question["load"]["prompt_len"], question["load"]["gen_len"]))
            return super().ask(question)

    table = {("train", mesh): (1.0, GIB) for mesh in trained.meshes()}
    found = make_plan(trained, Listening(table, 1.0))
    assert found.largest_length == 2048
    assert (2048, 1) in asked and {generated for _, generated in asked} == {1}


@pytest.mark.parametrize(
    ("growth", "rows", "length"),
    [(1.0, 504, 2016), (1.05, 472, 1814), (1.12, 448, 1512), (1.2, 400, 1512), (1.5, 8, 1209)],
)
def test_where_more_takes_more_than_its_share_less_is_tried(
    growth: float, rows: int, length: int
) -> None:
    """Of what would fit in proportion, by 100, 95, 90 and 80 % of rows, or 100, 90, 75 and 60 % of
    positions."""
    small, large = (
        {
            (kind, mesh): (1.0, size)
            for kind in ("decode", "prefill")
            for mesh in ("data=1,model=2", "data=2,model=1")
        }
        for size in (GIB // 4, 2 * GIB)
    )
    assert best(small, growth).largest_batch_size == rows
    assert best(large, growth).largest_length == length
