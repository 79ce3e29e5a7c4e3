"""Model experiments and model registry of the fake GitLab.

As lib/api/ml/mlflow/*.rb, lib/api/ml_model_packages.rb and the models below app/models/ml of
GitLab 18 have them: a role below Developer gets 401, a project without the feature 404, a missing
thing 404 with RESOURCE_DOES_NOT_EXIST; a batch passes over parameters and tags that are there and
keeps every metric; columns have their limits; `[model]name` is the experiment of a model.
Left out: paging, searching by metrics, deleting, artifacts of runs.
"""

import re
import secrets
from collections.abc import Callable
from typing import Any

from tests.fakes.gitlab.routes import Call, Handler, route
from tests.fakes.gitlab.state import DEVELOPER, GUEST, NUMBER, Document, Refusal

NAME = re.compile(r"@?(([\w\-.+]*)/)*([\w\-.]+)@?(([\w\-.+]*)/)*([\w\-.]*)")
FILE = re.compile(r"[A-Za-z0-9._\-+ ]+")
SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?"
)
STATES = ("RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED")
LONGEST, LONGEST_TAG, LONGEST_DESCRIPTION = 250, 5000, 10_000

MISSING = Refusal(404, {"error_code": "RESOURCE_DOES_NOT_EXIST"})


def invalid(message: Any = None) -> Refusal:
    return Refusal(400, {"error_code": "INVALID_PARAMETER_VALUE", "message": message})


def mlflow(method: str, path: str) -> Callable[[Handler], Handler]:
    """Register a path of the MLflow API."""

    def register(handler: Handler) -> Handler:
        def checked(call: Call) -> tuple[int, Any]:
            if not call.api.has_machine_learning:
                raise Refusal(404, "404 Not Found")
            if method != "GET" and call.token.level < DEVELOPER:
                raise Refusal(401, "401 Unauthorized")
            return handler(call)

        return route(method, f"projects/*/ml/mlflow/api/2.0/mlflow/{path}", GUEST)(checked)

    return register


def needed(call: Call, *names: str) -> list[Any]:
    for name in names:
        if name not in call.body:
            raise Refusal(400, {"error": f"{name} is missing"})
    return [call.body[name] for name in names]


def found(rows: list[Document], **wanted: Any) -> Document:
    for row in rows:
        if all(str(row[key]) == str(value) for key, value in wanted.items()):
            return row
    raise MISSING


@mlflow("GET", "experiments/get-by-name")
def get_experiment(call: Call) -> tuple[int, Any]:
    name = call.query.get("experiment_name", "")
    return 200, {"experiment": found(call.api.experiments, name=name)}


@mlflow("POST", "experiments/create")
def create_experiment(call: Call) -> tuple[int, Any]:
    (name,) = needed(call, "name")
    return 200, {"experiment_id": new_experiment(call, name)["experiment_id"]}


def new_experiment(call: Call, name: str) -> Document:
    rows = call.api.experiments
    if not name or any(row["name"] == name for row in rows):
        raise Refusal(400, {"error_code": "RESOURCE_ALREADY_EXISTS"})
    if len(name) > 255:
        raise invalid("PG::CheckViolation: ml_experiments.name")
    rows.append({"experiment_id": str(len(rows) + 1), "name": name, "lifecycle_stage": "active"})
    return rows[-1]


def new_run(call: Call, experiment: str, name: str, files: str, **info: Any) -> Document:
    run: Document = {
        "info": {
            "run_id": secrets.token_hex(16),
            "experiment_id": experiment,
            "run_name": name or "bear-moose-owl-42",
            "start_time": 0,
            "status": "RUNNING",
            "artifact_uri": f"https://gitlab.example.com/api/v4/projects/{NUMBER}/packages/{files}",
            **info,
        },
        "data": {"metrics": [], "params": [], "tags": []},
        "job": None,  # what GitLab shows, and does not answer
    }
    call.api.runs.append(run)
    return run


def shown(run: Document) -> Document:
    return {"info": run["info"], "data": run["data"]}


def run_of(call: Call, id_: Any) -> Document:
    for run in call.api.runs:
        if run["info"]["run_id"] == id_:
            return run
    raise MISSING


@mlflow("POST", "runs/create")
def create_run(call: Call) -> tuple[int, Any]:
    (experiment,) = needed(call, "experiment_id")
    number = found(call.api.experiments, experiment_id=experiment)["experiment_id"]
    files = f"ml_models/candidate:{len(call.api.runs) + 1}/files/"
    start = call.body.get("start_time", 0)
    run = new_run(call, number, call.body.get("run_name", ""), files, start_time=start)
    add_tags(call, run, call.body.get("tags") or [])
    return 200, {"run": shown(run)}


@mlflow("GET", "runs/get")
def get_run(call: Call) -> tuple[int, Any]:
    return 200, {"run": shown(run_of(call, call.query.get("run_id")))}


@mlflow("POST", "runs/search")
def search_runs(call: Call) -> tuple[int, Any]:
    (numbers,) = needed(call, "experiment_ids")
    number = found(call.api.experiments, experiment_id=numbers[0])["experiment_id"]
    rows = [run for run in call.api.runs if run["info"]["experiment_id"] == number]
    most = min(call.body.get("max_results", 200), 1000)
    return 200, {"runs": [shown(run) for run in rows[::-1][:most]], "next_page_token": None}


@mlflow("POST", "runs/update")
def update_run(call: Call) -> tuple[int, Any]:
    (id_,) = needed(call, "run_id")
    status = call.body.get("status", "RUNNING")
    if status not in STATES:
        raise Refusal(400, {"error": "status does not have a valid value"})
    run = run_of(call, id_)
    run["info"] |= {"status": status, "end_time": call.body.get("end_time")}
    return 200, {"run_info": run["info"]}


@mlflow("POST", "runs/log-batch")
def log_batch(call: Call) -> tuple[int, Any]:
    (id_,) = needed(call, "run_id")
    metrics = call.body.get("metrics") or []
    for number, metric in enumerate(metrics):
        for field, kind in (("key", str), ("value", int | float), ("timestamp", int)):
            if not isinstance(metric.get(field), kind):
                raise Refusal(400, {"error": f"metrics[{number}][{field}] is invalid"})
    run = run_of(call, id_)
    if any(len(metric["key"]) > LONGEST for metric in metrics):
        raise invalid("PG::CheckViolation: ml_candidate_metrics.name")
    run["data"]["metrics"] += metrics
    insert(run["data"]["params"], call.body.get("params") or [], LONGEST)
    add_tags(call, run, call.body.get("tags") or [])
    return 200, {}


def add_tags(call: Call, run: Document, tags: list[Document]) -> None:
    for tag in tags:
        if tag["key"] == "gitlab.CI_JOB_ID":
            known = call.api.job_ids
            if tag["value"] not in known if known is not None else not tag["value"].isdigit():
                raise Refusal(500, "500 Internal Server Error")  # ArgumentError in GitLab's code
            run["job"] = tag["value"]
    insert(run["data"]["tags"], tags, LONGEST_TAG)


def insert(rows: list[Document], new: list[Document], longest: int) -> None:
    for pair in new:
        if len(pair["key"]) > LONGEST or len(pair["value"]) > longest:
            raise invalid("PG::CheckViolation: value is too long")
        if pair["key"] not in {row["key"] for row in rows}:
            rows.append(pair)


@mlflow("POST", "registered-models/create")
def create_model(call: Call) -> tuple[int, Any]:
    (name,) = needed(call, "name")
    taken = any(row["name"] == name for row in call.api.models)
    if taken or not NAME.fullmatch(name) or len(name) > 255:
        raise Refusal(400, {"error_code": "RESOURCE_ALREADY_EXISTS"})
    experiment = new_experiment(call, f"[model]{name}")
    row = {"id": len(call.api.models) + 1, "name": name, "experiment": experiment["experiment_id"]}
    call.api.models.append(row)
    return 200, {"registered_model": row}


@mlflow("GET", "registered-models/get")
def get_model(call: Call) -> tuple[int, Any]:
    return 200, {"registered_model": found(call.api.models, name=call.query.get("name", ""))}


@mlflow("POST", "model-versions/create")
def create_version(call: Call) -> tuple[int, Any]:
    model = found(call.api.models, name=call.body.get("name", ""))
    tags = call.body.get("tags") or []
    given = {tag["key"]: tag["value"] for tag in tags}.get("gitlab.version")
    rows = [row for row in call.api.model_versions if row["name"] == model["name"]]
    number = given or f"{len(rows) + 1}.0.0"
    description = call.body.get("description") or ""
    if not SEMVER.fullmatch(number):
        raise invalid(["Version must be semantic version"])
    if any(row["aliases"] == [number] for row in rows):
        raise invalid(["Version has already been taken"])
    if len(description) > LONGEST_DESCRIPTION:
        raise invalid(["Description is too long (maximum is 10000 characters)"])
    id_ = str(len(call.api.model_versions) + 1)
    run = new_run(call, model["experiment"], "", f"ml_models/{id_}/files/")
    row = {
        "name": model["name"],
        "version": id_,
        "aliases": [number],
        "description": description,
        "source": f"{call.api.web_url}/-/ml/models/{model['id']}/versions/{id_}",
        "run_id": run["info"]["run_id"],
        "tags": tags,
    }
    call.api.model_versions.append(row)
    return 200, {"model_version": row}


@mlflow("GET", "model-versions/get")
def get_version(call: Call) -> tuple[int, Any]:
    name, number = (call.query.get(key, "") for key in ("name", "version"))
    return 200, {"model_version": found(call.api.model_versions, name=name, aliases=[number])}


@route("PUT", "projects/*/packages/ml_models/*/files/*", DEVELOPER)
def put_file(call: Call) -> tuple[int, Any]:
    """Take a file of a version; its body is the file."""
    _, id_, name = call.words
    if not FILE.fullmatch(name):
        raise Refusal(400, {"error": "file_name is invalid"})
    if not any(row["version"] == id_ for row in call.api.model_versions):
        raise Refusal(404, "404 Not Found")
    if "file" not in call.files:
        raise Refusal(400, {"error": "file is missing"})
    call.api.model_files[id_, name] = call.files["file"][1]
    return 201, {"message": "201 Created"}
