"""YAML is read as DVC reads it."""

import math
from pathlib import Path

import pytest
import yaml
from dvc.utils.serialize import load_yaml
from hypothesis import given
from hypothesis import strategies as st

from contracts.documents import read_yaml


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["r", "e", "E"]))
def test_every_number_is_a_number(number: float, form: str) -> None:
    text = repr(number) if form == "r" else f"{number:{form}}"
    found = read_yaml(f"rate: {text}")["rate"]
    assert isinstance(found, float) and math.isclose(found, float(text), rel_tol=0)


def test_scalars_are_those_of_dvc(tmp_path: Path) -> None:
    scalars = ("1e-3", "1E5", "-1e+3", "1.e-3", ".5e2", "1e", "e5", "1e-3x", "'1e-3'", "12", "0.5")
    text = "".join(f"key{number}: {scalar}\n" for number, scalar in enumerate(scalars))
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    assert read_yaml(text) == load_yaml(str(tmp_path / "params.yaml"))


@pytest.mark.parametrize("text", ["a: [", "a: !!python/object/apply:os.system [ls]", "\0"])
def test_what_is_no_plain_document_is_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        read_yaml(text)
