"""The benchmark of the products for CPUs: each form beside reading its bytes and beside float32."""

import json
from pathlib import Path

import pytest

from benchmarks.cpu_products import FORMS, Options, main
from neox_eqx.errors import InputError
from neox_eqx.native import library

SMALL = {"shapes": ("32x48",), "rows": (2,), "megabytes": 0, "rounds": 1}


def test_every_form_is_there_with_its_shares(tmp_path: Path) -> None:
    if not library.is_available():
        pytest.skip("there is no C++ compiler, or the library is turned off")
    main(Options(**SMALL, json=tmp_path / "figures.json"))
    report = json.loads((tmp_path / "figures.json").read_text())
    assert [each["form"] for each in report["products"]] == [*FORMS]
    assert report["instruction_set"] == library.instruction_set()
    for each in report["products"]:
        share = each["bytes_per_second"] / each["read_bytes_per_second"]
        assert each["share_of_reading"] == pytest.approx(share)
        assert each["times_float32"] > 0 and each["seconds"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [({"shapes": ("32",)}, "is not as 3072x768"), ({"forms": ("int3",)}, "is none of float16")],
)
def test_what_is_no_shape_or_form_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        main(Options(**(SMALL | options)))
