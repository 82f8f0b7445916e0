"""YAML files of settings, and those that stand for more than they hold."""

from pathlib import Path

import pytest

from neox_eqx.convert.neox.yaml_file import read_yaml
from neox_eqx.errors import InputError


def laughs(last: str) -> str:
    """Nine times nine times nine values, and so on."""
    before = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
    return f"a0: &a0 {last}\n{before}"


MERGED = "m0: &m0 {k: 1}\n" + "".join(
    f"m{n}: &m{n} {{'<<': [{', '.join([f'*m{n - 1}'] * 9)}]}}\n" for n in range(1, 30)
)


def test_settings_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yml"
    path.write_text('"num-layers": 2\nlayer: &one [[global], 1]\nattention_config: [*one, *one]\n')
    expected = {"num-layers": 2, "layer": [["global"], 1]}
    assert read_yaml(path) == expected | {"attention_config": [[["global"], 1]] * 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(laughs("[x]"), "stands for more than 20000 values", id="aliases"),
        pytest.param(MERGED, "stands for more than 20000 values", id="merged aliases"),
        ("attention_config: &a [*a]", "stands for more than 20000 values"),
        ("a: &a {b: *a}", "stands for more than 20000 values"),
        ("norm: !!timestamp x", "is not valid YAML: "),
        ("norm: !!bool x", "is not valid YAML: "),
        ('norm: !!int ""', "is not valid YAML: "),
        ("norm: 2020-99-99", "is not valid YAML: month must be in 1..12"),
        ("norm: !!python/object:os.system x", "is not valid YAML: could not determine"),
        ("a: " + "1" * 5000, "is not valid YAML: Exceeds the limit"),
        ("a: " + "[" * 1000, "is not valid YAML: "),
        ("{[1]: 2}", "is not valid YAML: "),
        ("1: 2", "holds no settings by name"),
        ("a: " + "b" * 1_000_000, "has more than 1000000 bytes"),
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_settings_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.yml"
    path.write_text(text)
    with pytest.raises(InputError) as refusal:
        read_yaml(path)
    assert f"{path}: {message}" in str(refusal.value)
    assert len(str(refusal.value)) < len(str(path)) + 250
