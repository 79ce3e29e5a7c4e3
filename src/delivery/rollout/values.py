"""What a team sets for an overlay, in values.yaml: checked before kustomize copies it anywhere.

kustomize copies a text into a list and a port that is none, and only the cluster would refuse it. A
missing value is its error, as only components that need one ask for it. A team may add its own.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from contracts.faults import first_fault
from contracts.frames import check_brokers
from delivery.errors import RolloutError

FILE = "values.yaml"
TABLE = "docs/kubernetes.md, Values, has the table"
_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*")
Port = Annotated[int, Field(ge=1, le=65535)]


def _host(text: str) -> str:
    if len(text) > 253 or not _HOST.fullmatch(text):
        raise ValueError(f"{text[:64]!a} is no name of a host: write model.example.com")
    return text


def _namespace(text: str) -> str:
    if not re.fullmatch(_LABEL, text):
        raise ValueError(f"{text[:64]!a} is no name of a namespace: write monitoring")
    return text


def _address(text: str) -> str:
    if not re.fullmatch(r"https?://[^/\s]\S*", text):
        raise ValueError(
            f"{text[:64]!a} is no address: write http://prometheus.monitoring.svc:9090"
        )
    return text


def _some(opened: list["Opened"]) -> list["Opened"]:
    if not opened:
        raise ValueError("it is empty, which opens every port: write [{port: 443}]")
    return opened


Namespace = Annotated[str, AfterValidator(_namespace)]


class Opened(BaseModel):
    """A port that the pods may open."""

    model_config = ConfigDict(extra="forbid", strict=True)
    port: Port
    end_port: Port | None = Field(None, alias="endPort")
    protocol: Literal["TCP", "UDP", "SCTP"] = "TCP"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.end_port is not None and self.end_port < self.port:
            raise ValueError(f"port is {self.port} and endPort is {self.end_port}: it is no less")
        return self


class Replicas(BaseModel):
    """Fewest and most pods; those that are missing are kustomize's error."""

    model_config = ConfigDict(strict=True)
    least: int = Field(1, ge=1)
    most: int = Field(2**31, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.least > self.most:
            raise ValueError(f"least is {self.least} and most is {self.most}: most is no less")
        return self


class Stream(BaseModel):
    """Where frames come from; a value that is missing is kustomize's error."""

    model_config = ConfigDict(strict=True)
    brokers: Annotated[str, AfterValidator(check_brokers)] | None = None


class Values(BaseModel):
    """Those whose wrong form no one else would name."""

    model_config = ConfigDict(strict=True)
    host: Annotated[str, AfterValidator(_host)] | None = None
    callers: list[Namespace] | None = None
    egress: Annotated[list[Opened], AfterValidator(_some)] | None = None
    monitorLabels: dict[str, str] | None = None
    prometheus: Annotated[str, AfterValidator(_address)] | None = None
    replicas: Replicas | None = None
    stream: Stream | None = None


def check_values(folder: Path) -> None:
    """Check the file of an overlay; a folder may have none.

    Raises:
        RolloutError: it is not YAML, or a value has the wrong form.
    """
    path = folder / FILE
    if not path.exists():
        return
    try:
        document: Any = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
        Values.model_validate(document)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise RolloutError(f"{path}{line}: it is not YAML: write KEY: VALUE; {TABLE}") from None
    except (OSError, ValueError) as error:
        fault = first_fault(error) if isinstance(error, ValidationError) else "it is no text"
        raise RolloutError(f"{path}: {fault}; {TABLE}") from None
