"""Training that goes on from a LoRA adapter of PEFT's, and what LoRA drops as it learns."""

import dataclasses
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
from transformers import GPTNeoXForCausalLM

from neox_eqx.checkpoint.load import load
from neox_eqx.checkpoint.origin import TextOriginOptions
from neox_eqx.errors import InputError
from neox_eqx.model.adapt import adapted
from neox_eqx.model.dropout import Dropout, drop
from neox_eqx.training.run.fine_tune import fine_tune
from neox_eqx.training.run.options import TrainingOptions
from neox_eqx.training.run.start import Start
from neox_eqx.training.update.recipe import Recipe
from neox_eqx.training.update.step import summed_loss
from neox_eqx.training.update.trained import join, trainable
from neox_eqx.training.update.tuning import Tuning
from tests.hf_models import our_logits, stack_layers
from tests.text.checkpoints import byte_level, save_checkpoint
from tests.training.peers import random_batch
from tests.training.peft_peers import (
    CONFIG,
    TARGETS,
    from_peft,
    our_model,
    peft_gradients,
    peft_model,
    trained_at_random,
)
from tests.training.runs import write_data

RECIPE = Recipe(steps=2)
TOKENS = np.arange(24).reshape(2, 12)


def save_adapter(base: Path, directory: Path, **config: Any) -> peft.PeftModel:
    model = GPTNeoXForCausalLM.from_pretrained(base)
    config = {"target_modules": ["query_key_value"], **config}
    theirs = trained_at_random(model, peft.LoraConfig(task_type="CAUSAL_LM", **config))
    with warnings.catch_warnings(action="ignore"):
        theirs.save_pretrained(directory)
    return theirs


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("files")
    save_checkpoint(directory / "base", byte_level())
    write_data(directory / "data.jsonl", 9)
    return directory


def options(files: Path, **own: Any) -> TrainingOptions:
    given = {"steps": 2, "batch_size": 4, "max_length": 32, "mesh": "data=1,model=1"}
    output = own.pop("output", files / "run")
    return TrainingOptions(files / "data.jsonl", output, wandb_mode="disabled", **given | own)


@pytest.mark.parametrize(
    "config",
    [
        dict(r=3, lora_alpha=7),
        dict(r=4, lora_alpha=2, use_rslora=True, lora_dropout=0.5, target_modules="all-linear"),
    ],
)
def test_it_begins_as_peft_left_it(config: dict[str, Any], files: Path, tmp_path: Path) -> None:
    theirs = save_adapter(files / "base", tmp_path, **config)
    start = Start.of(options(files, adapter=str(tmp_path)))
    trained, frozen = trainable(
        load(start.source.directory, dtype="float32", stacked=True),
        start.tuning,
        RECIPE,
        adapter=start.adapter,
    )
    model, _ = join(trained, frozen)
    lora = adapted(model)[0]
    assert (lora.rank, lora.alpha, lora.dropout) == (
        config["r"],
        config["lora_alpha"],
        config.get("lora_dropout", 0),
    )
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor(TOKENS)).logits.numpy()
    # Measured 6.2e-7 of the largest.
    difference = np.abs(our_logits(model, TOKENS, np.ones(TOKENS.shape, bool)) - expected).max()
    assert difference < 1e-5 * np.abs(expected).max()
    plain = load(files / "base", dtype="float32", stacked=True)
    without = our_logits(plain, TOKENS, np.ones(TOKENS.shape, bool))
    assert np.abs(without - expected).max() > 0.1 * np.abs(expected).max()


def test_a_run_goes_on_from_an_adapter_to_one_that_peft_loads(files: Path, tmp_path: Path) -> None:
    before = dict(r=4, lora_alpha=6, use_rslora=True, lora_dropout=0.1, target_modules=["dense"])
    save_adapter(files / "base", tmp_path / "before", **before)
    own = options(files, adapter=str(tmp_path / "before"), output=tmp_path / "run")
    fine_tune(own)
    run = tmp_path / "run"
    config = json.loads((run / "adapter" / "adapter_config.json").read_text())
    assert {name: config[name] for name in before} == before
    assert config["base_model_name_or_path"] == str(files / "base")
    base = GPTNeoXForCausalLM.from_pretrained(files / "base")
    with warnings.catch_warnings(action="ignore"):
        merged = peft.PeftModel.from_pretrained(base, run / "adapter").merge_and_unload()
    weight = merged.gpt_neox.layers[1].attention.dense.weight.detach().numpy()
    for directory in (run / "hf", run / "adapter"):  # each is a model
        ours = load(directory, dtype="float32", stacked=False).layers[1].attention.dense.weight
        np.testing.assert_allclose(ours, weight, atol=5e-7, rtol=0)
    ours = load(tmp_path / "before", dtype="float32", stacked=False).layers[1].attention.dense
    assert np.abs(np.asarray(ours.weight) - weight).max() > 1e-6
    save_adapter(files / "base", tmp_path / "other", **before | {"lora_alpha": 7})
    with pytest.raises(InputError, match="holds a run with another lora_alpha"):
        fine_tune(dataclasses.replace(own, adapter=str(tmp_path / "other")))


def test_lora_drops_what_peft_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT asks torch for each mask; it gets ours, in the order in which it asks."""
    tuning = Tuning(lora_rank=4, lora_alpha=6, lora_targets=TARGETS, lora_dropout=0.25)
    theirs, plain = peft_model(tuning, CONFIG), our_model(CONFIG)
    trained, frozen = map(stack_layers, from_peft(theirs, tuning, plain))
    batch, key = jax.tree.map(lambda x: x[4:], random_batch(112)), jax.random.key(3)
    loss = jax.jit(summed_loss, static_argnums=2)
    mean = lambda *key: float(loss(trained, batch, RECIPE, *key) / batch.targets()[1].sum())  # noqa: E731
    dropout = Dropout.of(plain.config, key, 0.25)
    assert dropout is not None and Dropout.of(plain.config, key) is None
    asked: Iterator[int] = iter(range(1000))

    def torch_drop(x: torch.Tensor, p: float, training: bool, inplace: bool = False) -> Any:
        if p == 0:
            return x
        layer, place = divmod(next(asked), len(TARGETS))
        own = jax.random.split(dropout.layer(layer).of_lora, len(TARGETS))[place]
        return x * torch.tensor(np.array(drop(jnp.ones(x.shape), p, own)))

    expected, _ = peft_gradients(theirs, batch, tuning, plain)
    assert mean(None, frozen) == pytest.approx(expected, rel=1e-6)  # as in evaluation: none
    monkeypatch.setattr(torch.nn.functional, "dropout", torch_drop)
    dropped, _ = peft_gradients(theirs.train(), batch, tuning, plain)
    assert next(asked) == 2 * len(TARGETS)
    assert mean(key, frozen) == pytest.approx(dropped, rel=1e-6)
    assert abs(dropped / expected - 1) > 1e-3


@pytest.mark.parametrize(
    ("spelt", "names"),
    [
        (("dense", "query_key_value"), ("query_key_value", "dense")),
        (("all-linear",), TARGETS),
        ((r".*\.(dense|dense_4h_to_h)",), ("dense", "dense_4h_to_h")),
        (("attention.dense",), ("dense",)),
        (
            ("gpt_neox.layers.0.attention.dense", "gpt_neox.layers.1.attention.dense"),
            ("dense",),
        ),
    ],
)
def test_targets_are_spelt_as_pefts(
    spelt: tuple[str, ...], names: tuple[str, ...], files: Path
) -> None:
    own = options(files, model=str(files / "base"), tuning=Tuning(lora_rank=2, lora_targets=spelt))
    assert Start.of(own).tuning.lora_targets == names


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (("q_proj",), r"'q_proj' names none of them"),
        (("embed_in", "dense"), "names .*gpt_neox.embed_in"),
        (
            ("layers.0.attention.dense",),
            "in every layer .* names gpt_neox.layers.0.attention.dense",
        ),
        (("*",), "is no regular expression"),
    ],
)
def test_targets_that_cannot_be_trained_are_told(
    targets: tuple[str, ...], message: str, files: Path
) -> None:
    tuning = Tuning(lora_rank=2, lora_targets=targets)
    with pytest.raises(InputError, match=message):
        Start.of(options(files, model=str(files / "base"), tuning=tuning))


def test_adapters_that_a_run_cannot_go_on_from_are_told(files: Path, tmp_path: Path) -> None:
    for kind in (
        dict(rank_pattern={r"layers\.1\..*": 2}),
        dict(bias="all"),
    ):
        save_adapter(files / "base", tmp_path, **kind)
        with pytest.raises(InputError, match="a run goes on from LoRA alone, of one rank"):
            Start.of(options(files, adapter=str(tmp_path)))
    save_adapter(files / "base", tmp_path, layers_to_transform=[0])
    with pytest.raises(InputError, match="on those in every layer"):
        Start.of(options(files, adapter=str(tmp_path)))
    with pytest.raises(InputError, match="is an adapter, beside which no other is trained"):
        Start.of(options(files, model=str(tmp_path), tuning=Tuning(lora_rank=2)))
    with pytest.raises(InputError, match="is no LoRA adapter to go on from"):
        Start.of(options(files, adapter=str(files / "base")))


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (dict(), "give --model, or --adapter"),
        (dict(adapter="a", tuning=Tuning(lora_rank=4)), "leave out lora_rank and such"),
        (dict(model="a", tuning=Tuning(lora_dropout=0.1)), "lora_dropout is of use with lora_rank"),
        (dict(adapter="a", origin=TextOriginOptions("main")), "name it as ID@REVISION"),
        (dict(adapter="a", model="b", origin=TextOriginOptions(base="c")), "the same; give one"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    own: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        options(tmp_path, **own)
