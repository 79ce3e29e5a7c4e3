"""Cost and result of pipelines, pushed to a Prometheus pushgateway for the dashboard "Training".

`PUSHGATEWAY_URL` is its address; without it nothing is measured. A failed push is reported on
stderr and never fails the pipeline. The address may contain a password and is never printed.

Labels are keys of a group, so that a push replaces what the same pipeline pushed before, and
nothing else: conveyor_pipeline_seconds{pipeline}, conveyor_token_expires_timestamp_seconds{token},
and one group without a label for the last training of any pipeline.
"""

import http.client
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit

from prometheus_client import CollectorRegistry, Gauge, push_to_gateway
from prometheus_client.exposition import basic_auth_handler, default_handler
from pydantic import AwareDatetime, BaseModel, Field, TypeAdapter, ValidationError

from delivery.errors import GitLabError
from delivery.gitlab.client import asking, connect
from delivery.metrics.gpu import INTERVAL, Sampler

VARIABLE = "PUSHGATEWAY_URL"
JOB = "conveyor"
PIPELINES = ("request", "main", "retrain")
TOKENS = ("BOT_TOKEN", "RELEASE_TOKEN")
TIMEOUT = 10.0  # seconds that the pushgateway may take
MANIFEST = Path("model/model.json")
METRICS, PROGRESS = Path("reports/metrics.json"), Path("reports/training/metrics.json")
NUMBER = TypeAdapter(Annotated[float, Field(strict=True, allow_inf_nan=False)])
LABEL = re.compile(r"[A-Za-z0-9_-]{1,64}")  # a label stands in a path: nothing that leads elsewhere

ABOUT = {
    "conveyor_pipeline_seconds": "From the creation of a pipeline until it pushed this.",
    "conveyor_training_seconds": "Time in the training loop.",
    "conveyor_training_epochs": "Epochs that were trained.",
    "conveyor_training_accuracy": "Accuracy on the test images.",
    "conveyor_training_finished_timestamp_seconds": "When the last training ended.",
    "conveyor_training_gpu_utilization_ratio": "Mean use of the busiest GPU while training.",
    "conveyor_training_gpu_memory_bytes": "The most that the busiest GPU held while training.",
    "conveyor_token_expires_timestamp_seconds": "When a token of the pipelines ends.",
}


class NotPushed(Exception):
    """The pushgateway rejected a push; the text has the reason, without the address."""


class Training(BaseModel):
    """The section `training` of a bundle's manifest."""

    finished: AwareDatetime
    seconds: float = Field(ge=0, allow_inf_nan=False)


def is_enabled() -> bool:
    """Whether a pushgateway is configured."""
    return bool(os.environ.get(VARIABLE, "").strip())


@contextmanager
def watched(pipeline: str) -> Iterator[None]:
    """Measure a training, and push its figures if it succeeds; the tokens' expiry always."""
    if not is_enabled():
        yield
        return
    began = time.time()
    try:
        with Sampler() as sampler:
            yield
        _reporting(partial(_push_pipeline, pipeline, began))
        _reporting(partial(_push_training, began, sampler))
    finally:
        for name in TOKENS:
            if token := os.environ.get(name):
                _reporting(partial(_push_token, name, token))


def push(values: Mapping[str, float], labels: Mapping[str, str]) -> None:
    """Replace the metrics that were pushed with the same labels.

    Raises:
        NotPushed: the pushgateway rejects them, or a label is invalid.
    """
    for name, value in labels.items():
        if not LABEL.fullmatch(value):
            raise NotPushed(
                f"{name}: {value[:64]!a} is not a label: letters, digits, _ and -, up to 64"
            )
    registry = CollectorRegistry()
    for name, number in values.items():
        Gauge(name, ABOUT[name], registry=registry).set(number)
    address, handler = _address()
    try:
        push_to_gateway(address, JOB, registry, dict(labels), timeout=TIMEOUT, handler=handler)
    except HTTPError as error:
        raise NotPushed(f"the pushgateway answered {error.code}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        # Their texts may contain the address.
        raise NotPushed(f"the pushgateway cannot be reached ({type(error).__name__})") from None


def _reporting(do: Callable[[], None]) -> None:
    try:
        do()
    except (NotPushed, GitLabError) as failure:
        print(f"metrics: not pushed: {failure}", file=sys.stderr)
    except Exception as surprise:
        # A bug here must not lose a training of hours, which is pushed after this. Its text may
        # contain the address or a token.
        print(f"metrics: not pushed: {type(surprise).__name__}", file=sys.stderr)


def _push_pipeline(pipeline: str, began: float) -> None:
    push({"conveyor_pipeline_seconds": time.time() - created(began)}, {"pipeline": pipeline})


def created(began: float) -> float:
    """When the pipeline was created, in Unix seconds; outside of CI, when this process began."""
    try:
        when = datetime.fromisoformat(os.environ.get("CI_PIPELINE_CREATED_AT", ""))
    except ValueError:
        return began
    return min(began, when.timestamp()) if when.tzinfo else began


def _push_training(began: float, sampler: Sampler) -> None:
    training = read_training()
    # The manifest is older if nothing was trained, or if DVC had the result cached.
    if training is None or training.finished.timestamp() < int(began):
        return
    push(figures(training, sampler), {})


def read_training() -> Training | None:
    """The training of model/model.json; None if it is missing or has none."""
    try:
        return Training.model_validate(_read(MANIFEST)["training"])
    except (KeyError, ValidationError):
        return None


def figures(training: Training, sampler: Sampler) -> dict[str, float]:
    """The metrics of a training, without the unknown ones."""
    ended = training.finished.timestamp()
    found = {
        "conveyor_training_seconds": training.seconds,
        "conveyor_training_finished_timestamp_seconds": ended,
        "conveyor_training_accuracy": _number(_read(METRICS).get("accuracy")),
        "conveyor_training_epochs": _number(_read(PROGRESS).get("step")),
    }
    if (step := found["conveyor_training_epochs"]) is not None:
        found["conveyor_training_epochs"] = step + 1  # DVCLive counts from 0
    samples = sampler.between(ended - training.seconds - INTERVAL, ended + INTERVAL)
    if samples:
        mean = sum(sample.utilization for sample in samples) / len(samples)
        found["conveyor_training_gpu_utilization_ratio"] = mean
        found["conveyor_training_gpu_memory_bytes"] = max(sample.memory for sample in samples)
    return {name: value for name, value in found.items() if value is not None}


def _push_token(name: str, token: str) -> None:
    ends = expiry(name, token)
    key = "conveyor_token_expires_timestamp_seconds"
    push({} if ends is None else {key: ends}, {"token": name})


def expiry(name: str, token: str) -> float | None:
    """When a token expires, in Unix seconds; None for never. Any token may query itself.

    Raises:
        GitLabError: GitLab does not respond, or does not know the token.
    """
    with asking(f"querying when {name} ends"):
        client = connect(os.environ.get("CI_SERVER_URL", ""), token, name)
        day = getattr(client.personal_access_tokens.get("self"), "expires_at", None)
    if day is None:
        return None
    try:
        # It expires at the start of this day.
        return datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
    except (TypeError, ValueError):
        raise GitLabError(f"{name} expires on {str(day)[:32]!a}, which is not a date") from None


def _address() -> tuple[str, Callable[..., Any]]:
    """The address without user and password, and the handler that sends them."""
    text = os.environ.get(VARIABLE, "").strip()
    try:
        parts = urlsplit(text if "//" in text else f"http://{text}")
        where = parts.netloc.rpartition("@")[2] if parts.port != 0 else ""
    except ValueError:
        parts, where = urlsplit(""), ""
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise NotPushed(
            f"{VARIABLE}: not an http or https address (it may be secret and is not shown)"
        )
    address = f"{parts.scheme}://{where}{parts.path}"
    if parts.username is None:
        return address, default_handler
    user, password = unquote(parts.username), unquote(parts.password or "")

    def handler(
        url: str, method: str, timeout: float, headers: list[tuple[str, str]], data: bytes
    ) -> Callable[[], None]:
        return basic_auth_handler(url, method, timeout, headers, data, user, password)

    return address, handler


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _number(value: object) -> float | None:
    try:
        return NUMBER.validate_python(value)
    except ValidationError:
        return None
