"""Pipelines that the API of the fake GitLab starts, their branches, variables and traces.

As lib/api/branches.rb, ci/pipelines.rb and ci/jobs.rb of GitLab 18 answer: a branch that exists or
a ref that is no commit is 400, a ref without a branch and variables of whoever may not set them are
400 with `base`, a pipeline without a job is 400 "filtered out by workflow rules", variables are for
maintainers, force=true cancels for ever. The only job is `attempt`; what runs it is the test.
"""

import subprocess
from typing import Any

from tests.fakes.gitlab.routes import Call, one, route
from tests.fakes.gitlab.state import ACTIVE, DEVELOPER, GUEST, MAINTAINER, Document, Refusal


def commit_of(call: Call, ref: str) -> str:
    """The commit of a branch or hash; empty if there is none."""
    form = "--format=%(objectname)"
    return call.api.git("for-each-ref", form, f"refs/heads/{ref}")


@route("POST", "projects/*/repository/branches", DEVELOPER)
def post_branch(call: Call) -> tuple[int, Any]:
    """Create a branch at a commit."""
    name, ref = str(call.body["branch"]), str(call.body["ref"])
    if commit_of(call, name):
        raise Refusal(400, "Branch already exists")
    try:
        call.api.git("branch", name, ref)
    except subprocess.CalledProcessError:
        raise Refusal(400, "Invalid reference name: " + ref) from None
    return 201, {"name": name, "commit": {"id": ref}}


@route("DELETE", "projects/*/repository/branches/*", DEVELOPER)
def delete_branch(call: Call) -> tuple[int, Any]:
    """Delete a branch."""
    if not commit_of(call, call.words[1]):
        raise Refusal(404, "404 Branch Not Found")
    call.api.git("branch", "-D", call.words[1])
    return 204, None


@route("POST", "projects/*/pipeline", DEVELOPER)
def post_pipeline(call: Call) -> tuple[int, Any]:
    """Start a pipeline on a branch."""
    variables = {row["key"]: row["value"] for row in call.body.get("variables") or []}
    least = call.api.project["ci_pipeline_variables_minimum_override_role"]
    level = {"developer": DEVELOPER, "maintainer": MAINTAINER}.get(least, 1000)
    if variables and call.token.level < level:
        said = "Insufficient permissions to set pipeline variables"
        raise Refusal(400, {"message": {"base": [said]}})
    ref = str(call.body["ref"])
    if not (sha := commit_of(call, ref)):
        raise Refusal(400, {"message": {"base": ["Reference not found"]}})
    if "JOBS_ATTEMPT" not in variables:
        said = "Pipeline filtered out by workflow rules."
        raise Refusal(400, {"message": {"base": [said]}})
    row = call.api.add_pipeline(ref, "created", sha=sha, source="api", variables=variables)
    add_job(call.api, row["id"], tag_list=[variables.get("TRAIN_RUNNER_TAG", "gpu")])
    return 201, shown(row)


def add_job(api: Any, pipeline: int, **fields: Any) -> Document:
    """Add the job of a pipeline, as when it is created or retried."""
    number = 5001 + sum(map(len, api.jobs.values()))
    job = {"id": number, "name": "attempt", "status": "created", "failure_reason": None}
    api.jobs.setdefault(pipeline, []).append({**job, "runner": None, "duration": None} | fields)
    return api.jobs[pipeline][-1]  # type: ignore[no-any-return]


def shown(row: Document) -> Document:
    """A pipeline without what only its own route answers."""
    return {name: row[name] for name in row if name != "variables"}


@route("GET", "projects/*/pipelines/*/variables", MAINTAINER)
def list_variables(call: Call) -> tuple[int, Any]:
    """Variables that whoever started it has given."""
    row = one(call.api.pipelines, "id", call.words[1], "Pipeline")
    given = row.get("variables") or {}
    return 200, [{"key": key, "value": value} for key, value in given.items()]


@route("GET", "projects/*/jobs/*/trace", GUEST)
def get_trace(call: Call) -> tuple[int, Any]:
    """The log of a job; empty before it has begun."""
    return 200, call.api.traces.get(int(call.words[1]), b"")


@route("POST", "projects/*/jobs/*/cancel", DEVELOPER)
def cancel_job(call: Call) -> tuple[int, Any]:
    """Cancel a job; one that is being cancelled only by force, as a maintainer."""
    rows = [job for jobs in call.api.jobs.values() for job in jobs]
    row = one(rows, "id", call.words[1], "Job")
    forced = call.query.get("force") == "true"
    if row["status"] in ACTIVE or (row["status"] == "canceling" and forced):
        row["status"] = "canceled" if forced or row["status"] != "running" else "canceling"
    return 201, row
