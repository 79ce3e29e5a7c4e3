"""`routing.yaml`: text in, checked rules out. docs/routing.md explains it to who writes it.

name: trial-12              # a new name deals anew, and learns from nothing
arms: {default: 0.9, landcover@v1.2.0: 0.1}
sticky: x-user-id
shadow: landcover#staging
learn: {floor: 0.01, labels: 200}
guard: {requests: 50, errors: 0.1, latency_ms: 80, confidence: 0.5}
"""

import math
import re
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from contracts.faults import first_fault
from contracts.tags import LONGEST, NAME, Assignment, match_tag

DEFAULT = "default"
"""The arm that is what serves."""
LARGEST = 64 << 10  # bytes of a file
MOST = 8  # arms
HEADER = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,64}")
SECRETS = ("authorization", "cookie", "x-api-key")
Share = Annotated[float, Field(ge=0, le=1)]


class RulesRefused(Exception):
    """A file that holds no rules: field, value, cure."""


class Part(BaseModel):
    """Frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Learn(Part):
    """Shares follow the labels of people."""

    floor: Share = 0.01
    """Least share of an arm, so that nothing is given up for ever."""
    labels: int = Field(200, ge=1)
    """Of each arm, before a promotion is proposed."""


class Guard(Part):
    """Limits beyond which an arm gets nothing; the default one has none to give way to."""

    requests: int = Field(50, ge=1, le=10_000)
    """The last ones of an arm in a worker that are looked at."""
    errors: Share | None = None
    """Share of answers that failed."""
    latency_ms: float | None = Field(default=None, gt=0)
    """Mean time in the runtime."""
    confidence: Share | None = None
    """Least mean confidence."""


class Rules(Part):
    """The whole file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    enabled: bool = True
    """False: what serves answers everything."""
    arms: dict[str, Share]
    """Reference of a model -> its share; where it learns, the share that it starts from."""
    sticky: str = ""
    """Header by whose value a caller keeps its arm."""
    shadow: str = ""
    """Model that is given a copy."""
    learn: Learn | None = None
    guard: Guard | None = None

    @field_validator("sticky")
    @classmethod
    def _header(cls, text: str) -> str:
        name = text.lower()
        if text and (not HEADER.fullmatch(name) or name in SECRETS):
            raise ValueError(f"{text!a} is not the name of a caller's header: write x-user-id")
        return name

    @field_validator("arms")
    @classmethod
    def _arms(cls, arms: dict[str, float]) -> dict[str, float]:
        if not 1 <= len(arms) <= MOST:
            raise ValueError(f"{len(arms)} arms, wanted 1 to {MOST}")
        for reference in arms:
            check_reference(reference)
        total = math.fsum(arms.values())
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares sum to {total:g}, wanted 1: change one of them")
        return arms

    @field_validator("shadow")
    @classmethod
    def _shadow(cls, text: str) -> str:
        if text:
            check_reference(text)
        return text

    @model_validator(mode="after")
    def _floor(self) -> Self:
        if self.learn is not None and self.learn.floor * len(self.arms) > 1:
            raise ValueError(
                f"learn.floor: {self.learn.floor:g} for each of {len(self.arms)} arms is more "
                f"than 1: write at most {1 / len(self.arms):.3g}"
            )
        return self


def check_reference(text: str) -> None:
    """Refuse what names no model. Raises ValueError."""
    tag = match_tag(text) if len(text) <= LONGEST else None
    if tag is None and not re.fullmatch(NAME, text):
        raise ValueError(
            f"{text[:64]!a} is not the name of a model: write default, landcover@v1.2.0 or "
            "landcover#staging"
        )
    if isinstance(tag, Assignment) and tag.counter:
        raise ValueError(f"{text!a} is one of many promotions: name the stage alone")


def read_rules(content: bytes) -> Rules:
    """Read a file.

    Raises:
        RulesRefused: with the field, its value, and what to write.
    """
    import yaml  # not for who has no rules

    if len(content) > LARGEST:
        raise RulesRefused(f"{len(content)} bytes, wanted at most {LARGEST}")
    try:
        found = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark else ""
        said = getattr(error, "problem", None) or "it is no text"
        raise RulesRefused(f"{place}not YAML ({said})") from None
    if found is None:
        raise RulesRefused("it is empty: write name and arms, or `enabled: false` beside them")
    try:
        return Rules.model_validate(found)
    except ValidationError as error:
        raise RulesRefused(first_fault(error, "the file")) from None
