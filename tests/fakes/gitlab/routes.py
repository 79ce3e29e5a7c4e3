"""What the fake GitLab answers, a function a path; server.py says what it is true to."""

import re
import secrets
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from tests.fakes.gitlab.state import (
    ACTIVE,
    DEVELOPER,
    GUEST,
    MAINTAINER,
    NUMBER,
    PATH,
    Document,
    FakeGitLab,
    Refusal,
    Request,
    Token,
    protection,
)


@dataclass
class Call:
    """A request under way: the fake, who asks, what stands in the path, and what was sent."""

    api: FakeGitLab
    token: Token
    words: tuple[str, ...]  # the parts of the path that its route left open
    query: dict[str, str]
    body: Document
    files: dict[str, tuple[str, bytes]]


Handler = Callable[[Call], tuple[int, Any]]
LONGEST_NOTE = 1_000_000
JOB_TOKENS = r"/releases(/|$)"
"""Paths that take a job's token (`job_token_allowed` in GitLab's code)."""
FILES_OF_MODELS = f"/api/v4/projects/{NUMBER}/packages/ml_models/"
ROUTES: list[tuple[str, str, int, Handler]] = []  # method, path, lowest role


def route(method: str, path: str, level: int) -> Callable[[Handler], Handler]:
    """Register a handler for a path below `/api/v4`; `*` stands for one part of it."""

    def register(handler: Handler) -> Handler:
        ROUTES.append((method, path, level, handler))
        return handler

    return register


def one(rows: list[Document], key: str, value: Any, what: str) -> Document:
    """Find a row, or answer 404."""
    for row in rows:
        if str(row[key]) == str(value):
            return row
    raise Refusal(404, f"404 {what} Not Found")


def truth(value: Any) -> bool:
    """Read a truth value of a form or of JSON."""
    return value in (True, 1, "true", "1")


@route("GET", "version", GUEST)
def version(call: Call) -> tuple[int, Any]:
    return 200, {"version": call.api.version, "revision": "0123456789a"}


@route("GET", "user", GUEST)
def get_user(call: Call) -> tuple[int, Any]:
    name = call.token.user
    email = f"7-{name}@users.noreply.gitlab.example.com"
    return 200, {"id": 7, "username": name, "name": name.title(), "commit_email": email}


@route("GET", "projects/*/push_rule", MAINTAINER)
def get_push_rule(call: Call) -> tuple[int, Any]:
    if not call.api.premium:
        raise Refusal(404, "404 Not Found")
    return 200, {"id": 1, "commit_message_regex": "", "deny_delete_tag": False} | call.api.push_rule


@route("GET", "personal_access_tokens/self", GUEST)
def get_own_token(call: Call) -> tuple[int, Any]:
    return 200, {"id": 7, "active": True, "revoked": False, "expires_at": call.token.expires_at}


@route("GET", "projects/*", GUEST)
def get_project(call: Call) -> tuple[int, Any]:
    access = {"access_level": call.token.level, "notification_level": 3}
    seen = dict(call.api.project)
    if call.token.level < MAINTAINER:  # GitLab shows the settings of CI to maintainers only
        seen = {name: seen[name] for name in seen if not name.startswith("ci_")}
    permissions = {"project_access": access, "group_access": None}
    return 200, seen | {"web_url": call.api.web_url, "permissions": permissions}


@route("PUT", "projects/*", MAINTAINER)
def put_project(call: Call) -> tuple[int, Any]:
    for name, value in call.body.items():
        if name in call.api.project:  # GitLab ignores what it does not know
            known = call.api.project[name]
            call.api.project[name] = truth(value) if isinstance(known, bool) else value
    if changes := call.body.get("container_expiration_policy_attributes"):
        call.api.project["container_expiration_policy"] |= changes
    return get_project(call)


def listed(labels: Any) -> list[str]:
    """Labels, which may come as a list or with commas between."""
    return labels if isinstance(labels, list) else [x for x in str(labels or "").split(",") if x]


def merge_request(call: Call) -> Document:
    """The merge request that the path names."""
    return one(call.api.merge_requests, "iid", call.words[1], "Merge Request")


@route("GET", "projects/*/merge_requests", GUEST)
def list_merge_requests(call: Call) -> tuple[int, Any]:
    wanted = call.query.get("state", "all")
    rows = [row for row in call.api.merge_requests if wanted in ("all", row["state"])]
    return 200, rows[::-1]


@route("GET", "projects/*/merge_requests/*", GUEST)
def get_merge_request(call: Call) -> tuple[int, Any]:
    row = merge_request(call)
    status = call.api.merge_status(row["iid"])
    more = {"head_pipeline": call.api.head_pipeline(row["iid"]), "detailed_merge_status": status}
    return 200, row | more


@route("GET", "projects/*/merge_requests/*/pipelines", GUEST)
def list_own_pipelines(call: Call) -> tuple[int, Any]:
    ref = f"refs/merge-requests/{merge_request(call)['iid']}/head"
    return 200, [row for row in call.api.pipelines[::-1] if row["ref"] == ref]


@route("POST", "projects/*/merge_requests", DEVELOPER)
def post_merge_request(call: Call) -> tuple[int, Any]:
    body = call.body
    for row in call.api.merge_requests:
        if row["state"] == "opened" and row["source_branch"] == body["source_branch"]:
            words = "Another open merge request already exists for this source branch"
            raise Refusal(409, [f"{words}: !{row['iid']}"])
    fields = {name: body[name] for name in ("target_branch", "title")}
    return 201, call.api.open_merge_request(body["source_branch"], **fields)


@route("PUT", "projects/*/merge_requests/*", DEVELOPER)
def put_merge_request(call: Call) -> tuple[int, Any]:
    row = merge_request(call)
    if "state_event" in call.body:
        row["state"] = {"close": "closed", "reopen": "opened"}[call.body["state_event"]]
    return 200, row


@route("GET", "projects/*/merge_requests/*/notes", GUEST)
def list_notes(call: Call) -> tuple[int, Any]:
    notes = call.api.notes[merge_request(call)["iid"]]
    return 200, notes if call.query.get("sort") == "asc" else notes[::-1]


@route("POST", "projects/*/merge_requests/*/notes", GUEST)
def post_note(call: Call) -> tuple[int, Any]:
    if not call.body.get("body"):
        raise Refusal(400, {"error": "body is missing"})
    if len(str(call.body["body"])) > LONGEST_NOTE:
        raise Refusal(400, {"note": ["is too long (maximum is 1000000 characters)"]})
    note = call.api.add_note(merge_request(call)["iid"], str(call.body["body"]))
    note["author"] = {"username": call.token.user}
    return 201, note


@route("PUT", "projects/*/merge_requests/*/notes/*", GUEST)
def put_note(call: Call) -> tuple[int, Any]:
    if len(str(call.body["body"])) > LONGEST_NOTE:
        raise Refusal(400, {"note": ["is too long (maximum is 1000000 characters)"]})
    note = one(call.api.notes[merge_request(call)["iid"]], "id", call.words[2], "Note")
    if note["author"]["username"] != call.token.user and call.token.level < MAINTAINER:
        raise Refusal(403, "403 Forbidden")
    note["body"] = call.body["body"]
    return 200, note


@route("DELETE", "projects/*/merge_requests/*/notes/*", GUEST)
def delete_note(call: Call) -> tuple[int, Any]:
    notes = call.api.notes[merge_request(call)["iid"]]
    note = one(notes, "id", call.words[2], "Note")
    if note["author"]["username"] != call.token.user and call.token.level < MAINTAINER:
        raise Refusal(403, "403 Forbidden")
    notes.remove(note)
    return 204, None


@route("POST", "projects/*/uploads", GUEST)
def post_upload(call: Call) -> tuple[int, Any]:
    if "file" not in call.files:
        raise Refusal(400, {"error": "file is missing"})
    name, content = call.files["file"]
    path = f"/uploads/{secrets.token_hex(16)}/{name}"
    call.api.uploads[path] = content
    full = f"/-/project/{NUMBER}{path}"
    return 201, {"alt": name, "url": path, "full_path": full, "markdown": f"![{name}]({path})"}


def shown(variable: Document) -> Document:
    """A variable as GitLab answers it."""
    return variable | ({"value": None} if variable["hidden"] else {})


def check_masked(variable: Document) -> None:
    """Refuse a value that cannot be masked."""
    if variable["masked"] and not re.fullmatch(r"\S{8,}", str(variable["value"])):
        raise Refusal(400, {"message": {"value": ["is invalid"]}})


def stored_variable(call: Call) -> Document:
    """The variable that the path and the filter name."""
    rows = [row for row in call.api.variables if row["key"] == call.words[1]]
    scope = call.query.get("filter[environment_scope]")
    if scope is not None:
        rows = [row for row in rows if row["environment_scope"] == scope]
    if len(rows) > 1:
        words = "There are multiple variables with provided parameters"
        raise Refusal(409, f"{words}. Please use 'filter[environment_scope]'")
    return one(rows, "key", call.words[1], "Variable")


@route("GET", "projects/*/variables", MAINTAINER)
def list_variables(call: Call) -> tuple[int, Any]:
    return 200, [shown(row) for row in call.api.variables]


@route("POST", "projects/*/variables", MAINTAINER)
def post_variable(call: Call) -> tuple[int, Any]:
    body = call.body
    scope, hidden = body.get("environment_scope", "*"), truth(body.get("masked_and_hidden"))
    for row in call.api.variables:
        if (row["key"], row["environment_scope"]) == (body["key"], scope):
            raise Refusal(400, {"message": {"key": [f"({body['key']}) has already been taken"]}})
    row = {
        "key": body["key"],
        "value": body["value"],
        "variable_type": body.get("variable_type", "env_var"),
        "protected": truth(body.get("protected")),
        "masked": truth(body.get("masked")) or hidden,
        "hidden": hidden,
        "raw": truth(body.get("raw")),
        "environment_scope": scope,
        "description": body.get("description"),
    }
    check_masked(row)
    call.api.variables.append(row)
    return 201, shown(row)


@route("PUT", "projects/*/variables/*", MAINTAINER)
def put_variable(call: Call) -> tuple[int, Any]:
    row = stored_variable(call)
    fields = ("value", "variable_type", "environment_scope", "description")
    new = row | {name: call.body[name] for name in fields if name in call.body}
    flags = [name for name in ("protected", "masked", "raw") if name in call.body]
    new |= {name: truth(call.body[name]) for name in flags}
    check_masked(new)
    row |= new
    return 200, shown(row)


def protect(rows: list[Document], what: str, name: str, **levels: int) -> tuple[int, Any]:
    """Add a protection; GitLab answers 409 when there is one of this name."""
    if any(row["name"] == name for row in rows):
        raise Refusal(409, f"Protected {what} '{name}' already exists")
    rows.append(protection(name, **levels))
    return 201, rows[-1]


@route("POST", "projects/*/protected_branches", MAINTAINER)
def post_protected_branch(call: Call) -> tuple[int, Any]:
    body = call.body
    levels = {verb: int(body.get(f"{verb}_access_level", MAINTAINER)) for verb in ("push", "merge")}
    status, row = protect(call.api.protected_branches, "branch", body["name"], **levels)
    row["allow_force_push"] = truth(body.get("allow_force_push"))
    return status, row


@route("POST", "projects/*/protected_tags", MAINTAINER)
def post_protected_tag(call: Call) -> tuple[int, Any]:
    level = int(call.body.get("create_access_level", MAINTAINER))
    return protect(call.api.protected_tags, "tag", call.body["name"], create=level)


@route("POST", "projects/*/protected_environments", MAINTAINER)
def post_protected_environment(call: Call) -> tuple[int, Any]:
    level = int(call.body["deploy_access_levels"][0]["access_level"])
    rows = call.api.protected_environments
    return protect(rows, "environment", call.body["name"], deploy=level)


def collection(name: str, key: str, what: str, made: Callable[[Call], Document] | None) -> None:
    """Register listing, reading, deleting, and making where `made` says how."""

    def rows(call: Call) -> list[Document]:
        if name == "protected_environments" and not call.api.premium:
            raise Refusal(404, "404 Not Found")
        found: list[Document] = getattr(call.api, name)
        return found

    def find(call: Call) -> Document:
        return one(rows(call), key, call.words[1], what)

    def create(call: Call) -> tuple[int, Any]:
        assert made
        rows(call).append({"id": next(call.api._numbers)} | made(call))
        return 201, rows(call)[-1]

    def delete(call: Call) -> tuple[int, Any]:
        rows(call).remove(find(call))
        return 204, None

    one_path = f"projects/*/{name}/*"

    def listing(call: Call) -> tuple[int, Any]:
        # A schedule shows its variables only when it is asked for alone.
        return 200, [{x: row[x] for x in row if x != "variables"} for row in rows(call)]

    route("GET", f"projects/*/{name}", MAINTAINER)(listing)
    route("GET", one_path, MAINTAINER)(lambda call: (200, find(call)))
    route("DELETE", one_path, MAINTAINER)(delete)
    if made:
        route("POST", f"projects/*/{name}", MAINTAINER)(create)


def new_label(call: Call) -> Document:
    if any(row["name"] == call.body["name"] for row in call.api.labels):
        raise Refusal(409, "Label already exists")
    return {name: call.body.get(name) for name in ("name", "color", "description")}


def new_schedule(call: Call) -> Document:
    body = call.body
    fields = {name: body[name] for name in ("description", "ref", "cron")}
    active = truth(body.get("active", True))
    zone = body.get("cron_timezone", "UTC")
    return fields | {"cron_timezone": zone, "active": active, "variables": []}


@route("POST", "projects/*/pipeline_schedules/*/variables", MAINTAINER)
def post_schedule_variable(call: Call) -> tuple[int, Any]:
    row = one(call.api.pipeline_schedules, "id", call.words[1], "Pipeline Schedule")
    if any(variable["key"] == call.body["key"] for variable in row["variables"]):
        raise Refusal(400, {"message": {"variables.key": ["has already been taken"]}})
    row["variables"].append({"variable_type": "env_var", "raw": False} | call.body)
    return 201, row["variables"][-1]


def new_trigger(call: Call) -> Document:
    return {"description": call.body["description"], "token": f"glptt-{secrets.token_hex(10)}"}


collection("protected_branches", "name", "Protected Branch", None)
collection("protected_tags", "name", "Protected Tag", None)
collection("protected_environments", "name", "Protected Environment", None)
collection("labels", "name", "Label", new_label)
collection("pipeline_schedules", "id", "Pipeline Schedule", new_schedule)
collection("triggers", "id", "Trigger", new_trigger)


@route("GET", "projects/*/resource_groups", GUEST)
def list_resource_groups(call: Call) -> tuple[int, Any]:
    return 200, call.api.resource_groups


@route("PUT", "projects/*/resource_groups/*", MAINTAINER)
def put_resource_group(call: Call) -> tuple[int, Any]:
    row = one(call.api.resource_groups, "key", call.words[1], "Resource Group")
    row["process_mode"] = call.body["process_mode"]
    return 200, row


@route("GET", "projects/*/registry/repositories", GUEST)
def list_images(call: Call) -> tuple[int, Any]:
    prefix = call.api.project["container_registry_image_prefix"]
    rows = enumerate(call.api.images, 1)
    return 200, [{"id": i, "name": name, "location": f"{prefix}/{name}"} for i, name in rows]


@route("GET", "projects/*/registry/repositories/*/tags", GUEST)
def list_tags_of_image(call: Call) -> tuple[int, Any]:
    tags = list(call.api.images.values())[int(call.words[1]) - 1]
    return 200, [{"name": tag} for tag in tags]


@route("GET", "projects/*/job_token_scope", MAINTAINER)
def get_job_token_scope(call: Call) -> tuple[int, Any]:
    return 200, call.api.job_token_scope


@route("PATCH", "projects/*/job_token_scope", MAINTAINER)
def patch_job_token_scope(call: Call) -> tuple[int, Any]:
    call.api.job_token_scope["inbound_enabled"] = truth(call.body["enabled"])
    return 204, None


@route("GET", "projects/*/access_tokens", MAINTAINER)
def list_access_tokens(call: Call) -> tuple[int, Any]:
    return 200, call.api.access_tokens


def admitted(call: Call, row: Document) -> Document:
    """Make a token that works for a row; only this answer shows it."""
    bot = f"project_{NUMBER}_bot_{row['id']}"
    scopes, level = tuple(row["scopes"]), row["access_level"]
    ends = row["expires_at"]
    text = call.api.admit(user=bot, level=level, scopes=scopes, personal=False, expires_at=ends)
    return row | {"token": text}


def dismissed(api: FakeGitLab, row: Document) -> None:
    """Take a row's token away."""
    row |= {"active": False, "revoked": True}
    bot = f"project_{NUMBER}_bot_{row['id']}"
    for text in [text for text, token in api.tokens.items() if token.user == bot]:
        del api.tokens[text]


@route("POST", "projects/*/access_tokens", MAINTAINER)
def post_access_token(call: Call) -> tuple[int, Any]:
    if not call.token.personal:
        words = "User does not have permission to create project access token"
        raise Refusal(400, f"400 Bad request - {words}")
    row = {
        "id": next(call.api._numbers),
        "name": call.body["name"],
        "scopes": call.body["scopes"],
        "access_level": int(call.body.get("access_level", MAINTAINER)),
        "expires_at": call.body["expires_at"],
        "active": True,
        "revoked": False,
    }
    call.api.access_tokens.append(row)
    return 201, admitted(call, row)


@route("POST", "projects/*/access_tokens/*/rotate", MAINTAINER)
def rotate_access_token(call: Call) -> tuple[int, Any]:
    old = one(call.api.access_tokens, "id", call.words[1], "Token")
    if not old["active"] or not call.token.personal:
        raise Refusal(401, "401 Unauthorized")
    dismissed(call.api, old)
    new = old | {"id": next(call.api._numbers), "active": True, "revoked": False}
    new["expires_at"] = call.body["expires_at"]
    call.api.access_tokens.append(new)
    return 200, admitted(call, new)


@route("DELETE", "projects/*/access_tokens/*", MAINTAINER)
def delete_access_token(call: Call) -> tuple[int, Any]:
    dismissed(call.api, one(call.api.access_tokens, "id", call.words[1], "Token"))
    return 204, None


@route("GET", "projects/*/deploy_tokens", MAINTAINER)
def list_deploy_tokens(call: Call) -> tuple[int, Any]:
    return 200, call.api.deploy_tokens


@route("POST", "projects/*/deploy_tokens", MAINTAINER)
def post_deploy_token(call: Call) -> tuple[int, Any]:
    number = next(call.api._numbers)
    row = {
        "id": number,
        "name": call.body["name"],
        "username": f"gitlab+deploy-token-{number}",
        "expires_at": f"{call.body['expires_at']}T00:00:00.000Z",
        "scopes": call.body["scopes"],
        "revoked": False,
        "expired": False,
    }
    call.api.deploy_tokens.append(row)
    return 201, row | {"token": f"gldt-{secrets.token_hex(10)}"}


@route("GET", "projects/*/repository/commits/*", GUEST)
def get_commit(call: Call) -> tuple[int, Any]:
    try:
        title, parents = call.api.git("log", "-1", "--format=%s%n%P", call.words[1]).split("\n")
    except subprocess.CalledProcessError:
        raise Refusal(404, "404 Commit Not Found") from None
    return 200, {"id": call.words[1], "title": title, "parent_ids": parents.split()}


@route("GET", "projects/*/repository/tags", GUEST)
def list_tags(call: Call) -> tuple[int, Any]:
    pattern = f"refs/tags/{call.query.get('search', '').removeprefix('^')}*"
    form = "--format=%(refname:strip=2) %(objectname) %(*objectname)"
    rows = [row.split() for row in call.api.git("for-each-ref", form, pattern).splitlines()]
    return 200, [{"name": row[0], "commit": {"id": row[-1]}} for row in rows]


@route("GET", "projects/*/pipelines/*/jobs", GUEST)
def list_jobs(call: Call) -> tuple[int, Any]:
    return 200, call.api.jobs.get(int(call.words[1]), [])


@route("GET", "projects/*/runners", MAINTAINER)
def list_runners(call: Call) -> tuple[int, Any]:
    wanted = set(listed(call.query.get("tag_list")))
    rows = [row for row in call.api.runners if wanted <= set(row["tag_list"])]
    # GitLab lists runners without their tags.
    return 200, [{name: row[name] for name in row if name != "tag_list"} for row in rows]


@route("GET", "projects/*/pipelines", GUEST)
def list_pipelines(call: Call) -> tuple[int, Any]:
    rows = call.api.pipelines
    for name in ("ref", "status", "source", "sha"):
        if name in call.query:
            rows = [row for row in rows if row[name] == call.query[name]]
    return 200, rows[::-1]


@route("GET", "projects/*/pipelines/*", GUEST)
def get_pipeline(call: Call) -> tuple[int, Any]:
    return 200, one(call.api.pipelines, "id", call.words[1], "Pipeline")


@route("POST", "projects/*/pipelines/*/cancel", DEVELOPER)
def cancel_pipeline(call: Call) -> tuple[int, Any]:
    row = one(call.api.pipelines, "id", call.words[1], "Pipeline")
    if row["status"] in ACTIVE:
        row["status"] = "canceled"
    for job in call.api.jobs.get(row["id"], []):  # a runner is told, and says when it has stopped
        if job["status"] in ACTIVE:
            job["status"] = "canceling" if job["status"] == "running" else "canceled"
    return 200, row


def triggered(call: Call, ref: object) -> tuple[int, Any]:
    """Start a pipeline by a trigger's token; its row keeps what the jobs get as TRIGGER_PAYLOAD."""
    sent = call.query | call.body
    if sent.pop("token", None) not in [row["token"] for row in call.api.triggers]:
        raise Refusal(404, "404 Not Found")
    variables: Any = sent.get("variables") or {}
    if not isinstance(variables, dict) or not all(isinstance(x, str) for x in variables.values()):
        raise Refusal(400, {"error": "variables needs to be a map of key-valued strings"})
    if ref not in [row["name"] for row in call.api.protected_branches]:
        raise Refusal(400, {"message": {"base": ["Reference not found"]}})
    payload = sent | {"id": call.words[0], "ref": ref, "variables": variables}
    row = call.api.add_pipeline(str(ref), "created", source="trigger", payload=payload)
    return 201, {name: row[name] for name in row if name != "payload"}


@route("POST", "projects/*/trigger/pipeline", 0)
def trigger_pipeline(call: Call) -> tuple[int, Any]:
    return triggered(call, call.body.get("ref", call.query.get("ref")))


@route("POST", "projects/*/ref/*/trigger/pipeline", 0)
def trigger_pipeline_of(call: Call) -> tuple[int, Any]:
    return triggered(call, call.words[1])


def answer(api: FakeGitLab, request: Request, files: dict[str, tuple[str, bytes]]) -> Any:
    """Find the route of a request and handle it; returns status and document.

    Raises:
        Refusal: GitLab would refuse it.
    """
    parts = [unquote(part) for part in request.path.removeprefix("/api/v4/").split("/")]
    for method, pattern, level, handler in ROUTES:
        words = matched(pattern.split("/"), parts)
        if method == request.method and words is not None:
            token = Token("anonymous", GUEST) if level == 0 else entitled(api, request, level)
            if pattern.startswith("projects/") and words[0] not in (PATH, str(NUMBER)):
                raise Refusal(404, "404 Project Not Found")
            return handler(Call(api, token, words, request.query, request.body, files))
    entitled(api, request, 0)
    raise Refusal(404, {"error": "404 Not Found"})


def matched(pattern: list[str], parts: list[str]) -> tuple[str, ...] | None:
    """Hold a path against a pattern; returns what stands at its stars."""
    if len(pattern) != len(parts):
        return None
    if any(ours not in ("*", theirs) for ours, theirs in zip(pattern, parts, strict=True)):
        return None
    return tuple(theirs for ours, theirs in zip(pattern, parts, strict=True) if ours == "*")


def entitled(api: FakeGitLab, request: Request, level: int) -> Token:
    """Who asks, when they may; a refusal otherwise."""
    token = api.tokens.get(request.token)
    if token is None or token.job != (request.sent == "job"):
        raise Refusal(401, "401 Unauthorized")
    if token.job and not re.search(JOB_TOKENS, request.path):
        raise Refusal(401, "401 Unauthorized")
    if request.path.startswith(FILES_OF_MODELS) and request.sent != "bearer":
        raise Refusal(401, "401 Unauthorized")
    enough = {"api"} | ({"read_api"} if request.method == "GET" else set())
    if request.path.endswith("/personal_access_tokens/self"):
        enough |= set(token.scopes)  # any token may ask about itself
    if not enough & set(token.scopes):
        words = "The request requires higher privileges than provided by the access token."
        scope = " ".join(sorted(enough))
        document = {"error": "insufficient_scope", "error_description": words, "scope": scope}
        raise Refusal(403, document)
    if token.level < GUEST:
        raise Refusal(404, "404 Project Not Found")
    if token.level < level:
        raise Refusal(403, "403 Forbidden")
    return token
