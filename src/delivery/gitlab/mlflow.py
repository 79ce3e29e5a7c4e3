"""Client of GitLab's model experiments and model registry, through its MLflow-compatible API.

Written from GitLab's code: lib/api/ml/mlflow/*.rb, lib/api/ml_model_packages.rb (18.x). The role
Developer and the scope `api` suffice. A job's own token is refused there, and files are taken with
`Authorization: Bearer` only, so every request is sent that way.
"""

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import gitlab
from pydantic import BaseModel, ValidationError

from delivery.errors import GitLabError
from delivery.gitlab.client import Refused, asking, connect

LONGEST = 250  # characters of a name and of a parameter's value
LONGEST_TAG = 5_000  # characters of a tag's value
LONGEST_DESCRIPTION = 10_000  # characters
MOST = 1_000  # metrics, and parameters, of a request; MLflow's own limit
NEWEST = 20  # runs among which a repeated job looks for its own

REFUSALS = {
    401: "the token is unknown or has expired, or its role is lower than Developer",
    404: "this project has none: it needs GitLab 17, and Model experiments and Model registry "
    "switched on under Settings > General > Visibility",
}
VARIABLES = ("CI_SERVER_URL", "CI_PROJECT_ID", "BOT_TOKEN")

Answer = TypeVar("Answer", bound=BaseModel)


class Metric(NamedTuple):
    """A number of a run; `step` is None for that of the finished training."""

    name: str
    value: float
    step: int | None = None


class _Info(BaseModel):
    run_id: str
    run_name: str = ""
    artifact_uri: str = ""


class _Logged(BaseModel):
    key: str
    step: int | None = None


class _Data(BaseModel):
    metrics: list[_Logged] = []
    tags: list[_Logged] = []


class Run(BaseModel):
    """A run of an experiment; every version of a model has one, too."""

    info: _Info
    data: _Data = _Data()

    @property
    def id(self) -> str:
        """GitLab's id of it."""
        return self.info.run_id

    @property
    def has_curve(self) -> bool:
        """Whether it has a metric of a step."""
        return any(metric.step is not None for metric in self.data.metrics)

    def has_tag(self, name: str) -> bool:
        """Whether it has a tag of this name."""
        return any(tag.key == name for tag in self.data.tags)


class ModelVersion(BaseModel):
    """A version in GitLab's model registry."""

    run_id: str
    source: str = ""
    """Its address for people."""


class _Runs(BaseModel):
    runs: list[Run] = []


class _Experiment(BaseModel):
    experiment_id: str


class MLflow:
    """One project's experiments and models. Methods raise GitLabError."""

    def __init__(self, url: str, project: str, token: str, called: str = "the token") -> None:
        self._client = connect(url, token, called, kind="oauth_token")
        self._root = f"/projects/{quote(project, safe='')}"

    @classmethod
    def from_environment(cls) -> "MLflow":
        """Those of the job's project, as the bot.

        Raises:
            GitLabError: a variable is missing.
        """
        if missing := [name for name in VARIABLES if not os.environ.get(name)]:
            raise GitLabError(f"{', '.join(missing)}: not set (docs/gitlab-setup.md)")
        url, project, token = (os.environ[name] for name in VARIABLES)
        return cls(url, project, token, "BOT_TOKEN")

    def run(self, experiment: str, name: str, begun: float) -> Run:
        """The run of this name among the newest of an experiment; created if there is none.

        Args:
            begun: Unix time at which the training began.
        """
        number = self._experiment(experiment)
        if run := self._newest(number, name):
            return run
        fields = {"experiment_id": number, "run_name": name, "start_time": _milliseconds(begun)}
        return _read(Run, self._post("runs/create", fields).get("run"))

    def find_run(self, experiment: str, name: str) -> Run | None:
        """The run of this name among the newest of an experiment."""
        number = self._find_experiment(experiment)
        return self._newest(number, name) if number else None

    def _newest(self, experiment: str, name: str) -> Run | None:
        wanted = {"experiment_ids": [experiment], "max_results": NEWEST}
        found = _read(_Runs, self._post("runs/search", wanted))
        return next((run for run in found.runs if run.info.run_name == name), None)

    def _find_experiment(self, name: str) -> str:
        found = self._find("experiments/get-by-name", experiment_name=name)
        return _read(_Experiment, found.get("experiment")).experiment_id if found else ""

    def _experiment(self, name: str) -> str:
        if found := self._find_experiment(name):
            return found
        try:
            created = self._post("experiments/create", {"name": name})
        except Refused:  # another job may have created it meanwhile
            if not (found := self._find_experiment(name)):
                raise
            return found
        return _read(_Experiment, created).experiment_id

    def log(
        self,
        run: str,
        metrics: Sequence[Metric] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Add to a run. GitLab keeps the first value of a parameter or tag, and every metric.

        What is longer than GitLab's columns is cut; what is no finite number, or beyond the first
        thousand, is left out.
        """
        now = _milliseconds(time.time())
        rows = [
            {"key": it.name[:LONGEST], "value": it.value, "timestamp": now}
            | ({} if it.step is None else {"step": it.step})
            for it in metrics
            if math.isfinite(it.value)
        ]
        fields = {
            "run_id": run,
            "metrics": rows[:MOST],
            "params": list(_pairs(params or {}, LONGEST))[:MOST],
            "tags": list(_pairs(tags or {}, LONGEST_TAG)),
        }
        self._post("runs/log-batch", fields)

    def end(self, run: str, status: str) -> None:
        """End a run as FINISHED, FAILED or KILLED."""
        fields = {"run_id": run, "status": status, "end_time": _milliseconds(time.time())}
        self._post("runs/update", fields)

    def version(self, model: str, number: str, description: str) -> tuple[ModelVersion, Run]:
        """A version of a model, `1.2.0`, with its run; both are created if there are none.

        Args:
            description: Markdown, for a version that is created.
        """
        found = self._find_version(model, number)
        if not found:
            if not self._find("registered-models/get", name=model):
                self._post("registered-models/create", {"name": model})
            tag = {"key": "gitlab.version", "value": number}
            fields = {"name": model, "description": description[:LONGEST_DESCRIPTION]}
            found = self._post("model-versions/create", fields | {"tags": [tag]})
        return self._with_run(found)

    def find_version(self, model: str, number: str) -> tuple[ModelVersion, Run] | None:
        """A version of a model with its run."""
        found = self._find_version(model, number)
        return self._with_run(found) if found else None

    def _find_version(self, model: str, number: str) -> dict[str, Any]:
        return self._find("model-versions/get", name=model, version=number)

    def _with_run(self, answer: dict[str, Any]) -> tuple[ModelVersion, Run]:
        version = _read(ModelVersion, answer.get("model_version"))
        run = self._find("runs/get", run_id=version.run_id).get("run")
        return version, _read(Run, run)

    def upload(self, run: Run, file: Path) -> None:
        """Add a file to the version that a run belongs to."""
        # GitLab's address may have another host than ours, so only its path counts.
        folder = run.info.artifact_uri.partition("/api/v4")[2].rstrip("/")
        if "/packages/ml_models/" not in folder:
            raise GitLabError(f"{file.name}: GitLab has no place for files of this version")
        with file.open("rb") as content:
            self._ask(
                f"uploading {file.name}",
                lambda: self._client.http_put(
                    f"{folder}/{quote(file.name)}", post_data=content, raw=True
                ),
            )

    def _find(self, path: str, **query: str) -> dict[str, Any]:
        """Ask for one thing; empty if GitLab has this API, and not the thing."""

        def request() -> object:
            try:
                return self._client.http_get(self._path(path), query_data=query)
            except gitlab.exceptions.GitlabHttpError as error:
                if b"RESOURCE_DOES_NOT_EXIST" in (error.response_body or b""):
                    return {}
                raise

        return self._ask(path, request)

    def _post(self, path: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        return self._ask(
            path, lambda: self._client.http_post(self._path(path), post_data=dict(fields))
        )

    def _path(self, path: str) -> str:
        return f"{self._root}/ml/mlflow/api/2.0/mlflow/{path}"

    def _ask(self, doing: str, request: Callable[[], object]) -> dict[str, Any]:
        try:
            with asking(doing):
                answer = request()
        except Refused as refused:
            if refused.status in REFUSALS:
                raise Refused(f"{doing}: {REFUSALS[refused.status]}", refused.status) from None
            raise
        if not isinstance(answer, dict):
            raise GitLabError(f"{doing}: the response is not GitLab's: check the address")
        return answer


def _read(kind: type[Answer], document: object) -> Answer:
    try:
        return kind.model_validate(document)
    except ValidationError:
        name = kind.__name__.lstrip("_")
        raise GitLabError(f"{name}: the response is not GitLab's: check the address") from None


def _pairs(values: Mapping[str, str], longest: int) -> Iterator[dict[str, str]]:
    for name, value in values.items():
        if name and value:
            yield {"key": name[:LONGEST], "value": value[:longest]}


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
