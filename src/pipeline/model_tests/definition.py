"""The typed view of `tests.yaml`, whose comments are the manual.

A test without a threshold could not fail, and is refused; so is whatever cannot be run.
"""

import os
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from contracts.documents import read_yaml
from contracts.faults import wanted
from contracts.model_tests import MOST_TESTS
from pipeline.errors import ParameterError
from pipeline.params import RESTORE

PATH = Path("tests.yaml")
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern="^[a-z][a-z0-9-]{0,62}$")]


class Part(BaseModel):
    """No unknown keys, no silent conversions, no changes after reading."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Case(Part):
    """What every kind of test has."""

    THRESHOLDS: ClassVar[tuple[str, ...]] = ("max_drop", "min_quality")
    ALONE: ClassVar[bool] = False
    """Whether nothing may run beside it."""

    kind: str
    severity: Literal["fails", "warns"] = "fails"
    needs: list[str] = []
    priority: int = 0
    retries: int = Field(default=1, ge=0, le=10)
    timeout: float = Field(default=600, gt=0, le=86_400)

    @model_validator(mode="after")
    def _can_fail(self) -> "Case":
        if all(getattr(self, name) is None for name in self.THRESHOLDS):
            raise ValueError(f"has no threshold, so it cannot fail: set {self.THRESHOLDS[0]}")
        return self


class OfQuality(Case):
    """What a test of quality has: thresholds in units of the task's measure, 0..1."""

    max_drop: Share | None = None
    min_quality: Share | None = None


class OfSlices(OfQuality):
    """What a test of slices has."""

    only: list[str] = []
    min_chips: int = Field(default=10, ge=2)


class Slice(OfSlices):
    """Quality on parts of the test split, each against the rest of it."""

    kind: Literal["slice"]
    by: Literal["class", "group", "place", "brightness", "size"]
    parts: int = Field(default=4, ge=2, le=20)
    edge: Positive = 10_000


class Season(OfSlices):
    """Quality in each month or season, against the rest of the year."""

    kind: Literal["season"]
    by: Literal["month", "season"] = "month"


class Brightness(OfQuality):
    """Quality under another light."""

    kind: Literal["brightness"]
    gains: list[Positive] = Field(min_length=1)


class Noise(OfQuality):
    """Quality with more noise of the sensor."""

    kind: Literal["noise"]
    sigmas: list[Positive] = Field(min_length=1)


class Shift(OfQuality):
    """Quality where the image lies some pixels aside."""

    kind: Literal["shift"]
    pixels: list[Annotated[int, Field(ge=1, le=512)]] = Field(min_length=1)


class Invariance(Case):
    """Share of the answers that change where they should not."""

    THRESHOLDS: ClassVar[tuple[str, ...]] = ("max_changed",)
    kind: Literal["invariance"]
    under: list[Literal["flip", "turn", "band-noise"]] = Field(min_length=1)
    sigma: Positive | None = None
    max_changed: Share | None = None

    @model_validator(mode="after")
    def _has_sigma(self) -> "Invariance":
        if ("band-noise" in self.under) != (self.sigma is not None):
            raise ValueError("sigma belongs to band-noise: write both, or neither")
        return self


class Latency(Case):
    """CPU time of single chips on one thread, alone and beside that of a convolution."""

    THRESHOLDS: ClassVar[tuple[str, ...]] = ("max_ratio", "max_cpu")
    ALONE: ClassVar[bool] = True
    kind: Literal["latency"]
    runs: int = Field(default=200, ge=20, le=100_000)
    max_cpu: Positive | None = None
    max_ratio: Positive | None = None


class Memory(Case):
    """Peak of the resident memory of a process that loads the model and predicts."""

    THRESHOLDS: ClassVar[tuple[str, ...]] = ("max_peak",)
    kind: Literal["memory"]
    batch: int = Field(default=16, ge=1, le=4096)
    max_peak: Positive | None = None


AnyCase = Annotated[
    Slice | Season | Brightness | Noise | Shift | Invariance | Latency | Memory,
    Field(discriminator="kind"),
]


class Definition(Part):
    """All of tests.yaml."""

    budget: float = Field(default=30, gt=0, allow_inf_nan=False)
    chips: int = Field(default=1000, ge=10)
    at_a_time: Literal["auto"] | Annotated[int, Field(ge=1, le=256)] = "auto"
    tests: dict[Name, AnyCase] = Field(min_length=1, max_length=MOST_TESTS)

    @model_validator(mode="after")
    def _is_ordered(self) -> "Definition":
        for name, test in self.tests.items():
            if unknown := [need for need in test.needs if need not in self.tests]:
                raise ValueError(
                    f"tests.{name}.needs: {unknown[0]!r} is no test: use some of "
                    f"{', '.join(self.tests)}"
                )
        try:
            TopologicalSorter({name: test.needs for name, test in self.tests.items()}).prepare()
        except CycleError as error:
            circle = " -> ".join(error.args[1])
            raise ValueError(
                f"tests.{error.args[1][0]}.needs: a cycle, {circle}: none of them can be the "
                f"first, take one of these needs away"
            ) from None
        return self


def read_tests(path: Path = PATH) -> Definition:
    """Read and check `tests.yaml`.

    Raises:
        ParameterError: it is missing or no YAML, or a key, type or value cannot be used.
    """
    try:
        return _parse(path)
    except ParameterError as error:
        more = f"; {RESTORE}" if "DVC_STAGE" in os.environ else ""
        raise ParameterError(f"{path}{error}{more}") from None


def _parse(path: Path) -> Definition:
    try:
        document = read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParameterError(
            " is missing: run this in the root of the repository, or bring the file back"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParameterError(f" is not valid YAML: {error}") from None
    try:
        return Definition.model_validate(document)
    except ValidationError as error:
        sentences = [_sentence(problem) for problem in error.errors(include_url=False)]
        raise ParameterError(": " + "; ".join(sentences)) from None


def _sentence(problem: Mapping[str, Any]) -> str:
    """Say one of pydantic's findings as field, value, cure."""
    kinds = _kinds()
    # pydantic puts the kind into the path to a field of a test.
    parts = [str(part) for n, part in enumerate(problem["loc"]) if n != 2 or part not in kinds]
    field = ".".join(parts) or "the file"
    match problem["type"]:
        case "extra_forbidden":
            of = kinds[problem["loc"][2]] if len(parts) > 2 else Definition
            return f"{field} is not known: remove it, or use one of {', '.join(of.model_fields)}"
        case "missing":
            return f"{field} is missing: add it"
        case "union_tag_not_found":
            return f"{field}.kind is missing: use one of {', '.join(kinds)}"
        case "union_tag_invalid":
            tag = problem["ctx"]["tag"]
            return f"{field}.kind is {tag!r}: use one of {', '.join(kinds)}"
        case "value_error":
            return f"{field} {wanted(problem)}" if parts else wanted(problem)
        case "too_short":
            return f"{field} is empty: write at least one"
        case _:
            return f"{field} is {problem['input']!r}, {wanted(problem)}"


def _kinds() -> dict[str, type[Case]]:
    kinds = (Slice, Season, Brightness, Noise, Shift, Invariance, Latency, Memory)
    return {kind.__name__.lower(): kind for kind in kinds}
