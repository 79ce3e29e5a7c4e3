"""Typed, frozen view of `params.yaml`.

    python -m pipeline.params     check it, before DVC deletes the outputs of the stages it runs

The comments in `params.yaml` are the manual; this file holds types and limits. Each stage reads
its own section, and `dvc.yaml` names that section as a dependency of the stage.
"""

import os
import re
from pathlib import Path
from typing import Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from contracts import tags
from contracts.documents import read_yaml
from contracts.faults import wanted
from pipeline import paths
from pipeline.errors import ParameterError, command

RESTORE = (
    "`dvc checkout` and `git checkout -- reports` bring back what DVC has deleted to run this stage"
)


class Section(BaseModel):
    """No unknown keys, no silent conversions ("3" is not 3), no changes after reading."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Load(Section):
    max_bad_fraction: float = Field(ge=0, le=1)


class Preprocess(Section):
    split: Literal["auto", "random", "spatial", "predefined"]
    test_fraction: float = Field(gt=0, lt=1)
    validation_fraction: float = Field(gt=0, lt=1)
    block_size: float = Field(gt=0)
    buffer: float = Field(default=240, ge=0)
    seed: int = Field(ge=0)

    @model_validator(mode="after")
    def _leave_something_to_train_on(self) -> "Preprocess":
        held_out = self.test_fraction + self.validation_fraction
        if held_out >= 1:
            raise ValueError(
                f"test_fraction + validation_fraction is {held_out:g}; "
                f"nothing is left to train on, keep the sum under 1"
            )
        return self


class Model(Section):
    name: str
    task: str = "classification"
    network: str
    width: int = Field(ge=4, le=512)
    dropout: float = Field(ge=0, lt=1)

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if len(name) > tags.LONGEST_NAME or not re.fullmatch(tags.NAME, name):
            raise ValueError(
                f"{name[:64]!r} is not a name: write at most {tags.LONGEST_NAME} of a-z, 0-9 and "
                f"-, a letter first and no - at the end, as in landcover"
            )
        return name


class Train(Section):
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    label_smoothing: float = Field(ge=0, lt=1)
    class_weights: float = Field(default=0, ge=0, le=1)
    gradient_clip: float = Field(ge=0)
    progressive: bool
    max_shift: int = Field(ge=0, le=32)
    mirror: bool = True
    noise: float = Field(default=0, ge=0, le=2)
    brightness: float = Field(ge=0, lt=1)
    colour: float = Field(default=0, ge=0, lt=1)
    zoom: float = Field(default=0, ge=0, le=0.5)
    patience: int = Field(ge=0)
    precision: Literal["auto", "float32", "bfloat16"]
    device: Literal["auto", "cpu", "cuda"]
    processes: int | str = 1
    nodes: int = Field(default=1, ge=1)
    accumulate: int = Field(default=1, ge=1)
    compile: bool
    quantize: Literal["never", "auto"] = "never"
    seed: int = Field(ge=0)

    @field_validator("processes", mode="before")
    @classmethod
    def _is_a_number_or_auto(cls, processes: object) -> object:
        if processes == "auto" or type(processes) is int and processes >= 1:
            return processes
        raise ValueError(f"{processes!r} is no number of processes: use 1 or more, or auto")


class Evaluate(Section):
    bootstrap_samples: int = Field(ge=100, le=100_000)
    block_size: float = Field(default=1000, gt=0)
    calibration_bins: int = Field(ge=2, le=100)
    latency_runs: int = Field(ge=10, le=10_000)


class Gate(Section):
    min_accuracy: float = Field(ge=0, le=1)
    min_recall: float = Field(ge=0, le=1)
    min_mean_iou: float = Field(default=0, ge=0, le=1)
    min_iou: float = Field(default=0, ge=0, le=1)
    min_ap50: float = Field(default=0, ge=0, le=1)
    min_mask_ap50: float = Field(default=0, ge=0, le=1)
    min_size_recall: float = Field(default=0, ge=0, le=1)
    max_calibration_error: float = Field(gt=0, le=1)
    max_latency: float = Field(gt=0)
    max_model_size: float = Field(gt=0)
    compare: bool


class Params(Section):
    """All of `params.yaml`."""

    load: Load
    preprocess: Preprocess
    model: Model
    train: Train
    evaluate: Evaluate
    gate: Gate


def read_params(path: Path = paths.PARAMS) -> Params:
    """Read and check `params.yaml`.

    Raises:
        ParameterError: the file is missing or no YAML, or a key, type or value cannot be used;
            names every such field with its value and the cure.
    """
    try:
        return _parse(path)
    except ParameterError as error:
        if "DVC_STAGE" not in os.environ:
            raise
        raise ParameterError(f"{error}; {RESTORE}") from None


def _parse(path: Path) -> Params:
    try:
        document = read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParameterError(f"{path} is missing: run this in the root of the repository") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path} is not valid YAML: {error}") from None
    try:
        return Params.model_validate(document)
    except ValidationError as error:
        sentences = [_sentence(problem) for problem in error.errors()]
        raise ParameterError(f"{path}: " + "; ".join(sentences)) from None


def _sentence(problem: object) -> str:
    """Say one of pydantic's findings as field, value, cure."""
    assert isinstance(problem, dict)
    field = ".".join(str(part) for part in problem["loc"]) or "the file"
    match problem["type"]:
        case "extra_forbidden":
            known = _known_keys(problem["loc"])
            return f"{field} is not a parameter: remove it, or use one of {known}"
        case "missing":
            return f"{field} is missing: add it"
        case "value_error":
            return f"{field}: {wanted(problem)}"
        case _:
            return f"{field} is {problem['input']!r}, {wanted(problem)}"


def _known_keys(location: tuple[str, ...]) -> str:
    model: type[BaseModel] = Params
    for part in location[:-1]:
        annotation = model.model_fields[part].annotation
        assert isinstance(annotation, type) and issubclass(annotation, BaseModel)
        model = annotation
    return ", ".join(model.model_fields)


@command
def main() -> None:
    """Check params.yaml."""
    read_params()


if __name__ == "__main__":
    main()
