"""The operations of a training step are those that PyTorch counts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from neox_eqx.hardware import peak_flops
from neox_eqx.training.run.report import flops_per_token
from tests.hf_models import pair
from tests.training.peers import CONFIGS


@pytest.mark.parametrize("name", CONFIGS)
def test_operations_are_those_of_forward_and_backward_in_pytorch(name: str) -> None:
    theirs, model = pair(CONFIGS[name])
    tokens = torch.zeros((2, 48), dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        theirs(tokens, labels=tokens).loss.backward()
    expected = counter.get_total_flops() / tokens.numel()
    # The angles of the rotary embedding are a product there, of which training takes no gradient.
    assert flops_per_token(model.config, 48) == pytest.approx(expected, rel=1e-4)

    # Frozen, with something before its first layer that is trained.
    embeddings = theirs.get_input_embeddings()(tokens).detach().requires_grad_()
    with FlopCounterMode(display=False) as counter:
        theirs.requires_grad_(False)(inputs_embeds=embeddings, labels=tokens).loss.backward()
    expected = counter.get_total_flops() / tokens.numel()
    ours = flops_per_token(model.config, 48, is_partial=True)
    assert ours == pytest.approx(expected, rel=1e-4)


def test_the_rate_of_a_device_that_is_not_known_is_none() -> None:
    assert peak_flops(1) is None  # of a CPU
