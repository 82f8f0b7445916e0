"""What `import neox_eqx` offers, and what it does without until that is used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import neox_eqx
import neox_eqx.public

IMPORTED = """
import sys
import neox_eqx
print(*{name.split(".")[0] for name in sys.modules})
from neox_eqx import TextGenerator
print(*{name.split(".")[0] for name in sys.modules})
"""


def test_every_public_name_is_there() -> None:
    offered = {name: getattr(neox_eqx, name) for name in neox_eqx.__all__}
    public = ast.parse(Path(neox_eqx.public.__file__).read_text("utf-8"))
    names = [alias.asname for line in public.body[1:] for alias in line.names]
    assert sorted(offered) == sorted(["DEMO_MODEL", *names])
    assert {*neox_eqx.__all__, "__version__"} <= {*dir(neox_eqx)}


def test_a_name_that_is_not_there_is_none() -> None:
    with pytest.raises(AttributeError, match="module 'neox_eqx' has no attribute 'TextGenerater'"):
        _ = neox_eqx.TextGenerater


def test_what_is_slow_to_import_comes_as_it_is_used() -> None:
    output = subprocess.check_output([sys.executable, "-c", IMPORTED], text=True)
    package, generator = (set(line.split()) for line in output.splitlines())
    assert package - {*sys.stdlib_module_names, "__main__"} - _before() == {"neox_eqx"}
    assert {"jax", "equinox", "tokenizers"} <= generator
    assert not generator & {
        *("datasets", "huggingface_hub", "lm_eval", "matplotlib", "optax", "orbax", "pandas"),
        *("scipy", "tensorstore", "torch", "transformers", "tyro", "wandb", "yaml"),
    }


def _before() -> set[str]:
    """What Python imports by itself as it starts, as the finder of an editable install."""
    program = "import sys; print(*{name.split('.')[0] for name in sys.modules})"
    return {*subprocess.check_output([sys.executable, "-c", program], text=True).split()}
