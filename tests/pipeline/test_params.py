"""params.yaml: what is taken, and what is refused with field, value and cure."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from pipeline.errors import ParameterError
from pipeline.params import read_params
from tests.conftest import PARAMS, ROOT, write_params


def test_the_shipped_file_is_valid_and_has_the_parameters_of_the_tests() -> None:
    read_params(ROOT / "params.yaml")
    of_the_project, of_the_tests = (
        {name: set(section) for name, section in yaml.safe_load(path.read_text("utf-8")).items()}
        for path in (ROOT / "params.yaml", PARAMS)
    )
    assert of_the_project == of_the_tests


def test_parameters_can_not_be_changed_after_reading(workdir: Path) -> None:
    with pytest.raises(ValidationError):
        read_params().train.epochs = 3


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("train", "epoch", 3, ["train.epoch", "not a parameter", "epochs"]),
        ("train", "epochs", "3", ["train.epochs", "'3'", "wanted a whole number"]),
        ("train", "epochs", 0, ["train.epochs", "0", "wanted at least 1"]),
        ("train", "epochs", True, ["train.epochs", "True"]),
        ("train", "learning_rate", float("nan"), ["train.learning_rate", "nan"]),
        ("train", "device", "gpu", ["train.device", "'gpu'", "'cuda'"]),
        ("preprocess", "split", "spatail", ["preprocess.split", "'spatail'", "'spatial'"]),
        ("preprocess", "test_fraction", 0.95, ["preprocess", "1.05", "nothing is left"]),
        ("model", "name", "../x", ["model.name", "'../x' is not a name: write at most 50 of a-z"]),
        ("model", "name", "Crops", ["model.name", "'Crops'", "as in landcover"]),
        ("model", "name", "crops-", ["model.name", "'crops-'", "no - at the end"]),
        ("model", "name", "a" * 51, ["model.name", "at most 50"]),
        ("model", "name", 7, ["model.name", "7", "wanted a text"]),
        ("load", "max_bad_fraction", 1.5, ["load.max_bad_fraction", "1.5", "wanted at most 1"]),
    ],
)
def test_a_bad_parameter_is_refused_with_field_value_and_cure(
    workdir: Path, section: str, key: str, value: object, words: list[str]
) -> None:
    write_params({section: {key: value}})
    with pytest.raises(ParameterError) as caught:
        read_params()
    for word in words:
        assert word in str(caught.value)
    assert "[a-z]" not in str(caught.value), "words, not a regular expression"


def test_a_name_of_fifty_characters_is_one(workdir: Path) -> None:
    write_params({"model": {"name": "a" * 50}})
    assert read_params().model.name == "a" * 50


def test_a_stage_of_dvc_says_how_its_outputs_come_back(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_params({"train": {"epoch": 3}})
    with pytest.raises(ParameterError) as alone:
        read_params()
    assert "dvc checkout" not in str(alone.value)
    monkeypatch.setenv("DVC_STAGE", "train")
    with pytest.raises(ParameterError, match="`dvc checkout` and `git checkout -- reports` bring"):
        read_params()


def test_every_bad_parameter_is_named_at_once(workdir: Path) -> None:
    write_params({"train": {"epochs": -1}, "model": {"width": 1}})
    with pytest.raises(ParameterError, match=r"model\.width.*train\.epochs"):
        read_params()


def test_a_missing_parameter_is_named(workdir: Path) -> None:
    document = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    del document["train"]["epochs"]
    Path("params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(ParameterError, match=r"train\.epochs is missing: add it"):
        read_params()


def test_an_unknown_section_is_refused(workdir: Path) -> None:
    with Path("params.yaml").open("a", encoding="utf-8") as file:
        file.write("serve: {port: 1}\n")
    with pytest.raises(ParameterError, match="serve is not a parameter"):
        read_params()


@pytest.mark.parametrize("text", ["", "train: [", "- a\n- b\n", "train:\n", "\x00"])
def test_a_file_that_is_no_such_document_is_refused(workdir: Path, text: str) -> None:
    Path("params.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ParameterError, match="params.yaml"):
        read_params()


def test_a_missing_file_says_where_to_run(workdir: Path) -> None:
    Path("params.yaml").unlink()
    with pytest.raises(ParameterError, match="root of the repository"):
        read_params()


def test_every_parameter_has_a_comment_or_speaks_for_itself() -> None:
    speaks_for_itself = {"epochs", "seed"}
    for line in (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines():
        if line.startswith("  ") and ":" in line:
            key = line.split(":")[0].strip()
            assert "#" in line or key in speaks_for_itself, key
