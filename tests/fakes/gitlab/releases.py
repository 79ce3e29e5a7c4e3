"""Releases of the fake GitLab, as releases.rb and create_service.rb of GitLab 18 have them."""

from fnmatch import fnmatchcase
from typing import Any

from tests.fakes.gitlab.routes import Call, one, route
from tests.fakes.gitlab.state import DEVELOPER, GUEST, Refusal


@route("POST", "projects/*/releases", DEVELOPER)
def post_release(call: Call) -> tuple[int, Any]:
    """Create a release of a tag that exists; of a protected one for whoever may create it."""
    body = call.body
    if "tag_name" not in body:
        raise Refusal(400, {"error": "tag_name is missing"})
    tag = str(body["tag_name"])
    for row in call.api.protected_tags:
        level = row["create_access_levels"][0]["access_level"]
        if fnmatchcase(tag, row["name"]) and call.token.level < level:
            raise Refusal(403, "You are not allowed to create this tag as it is protected.")
    if any(row["tag_name"] == tag for row in call.api.releases):
        raise Refusal(409, "Release already exists")
    if not call.api.has_tag(tag) and not body.get("ref"):
        raise Refusal(422, "Ref is not specified")
    links = (body.get("assets") or {}).get("links") or []
    for link in links:
        if not str(link.get("url", "")).startswith(("http://", "https://", "ftp://")):
            raise Refusal(400, "Validation failed: Links url is blocked: Only allowed schemes are")
    for field in ("name", "url"):
        if len({link[field] for link in links}) < len(links):
            raise Refusal(400, f"Validation failed: Links have duplicate values ({field})")
    fields = {name: body.get(name) for name in ("name", "description")}
    call.api.releases.append({"tag_name": tag, **fields, "assets": {"links": links}})
    return 201, call.api.releases[-1]


@route("GET", "projects/*/releases/*", GUEST)
def get_release(call: Call) -> tuple[int, Any]:
    """Return the release of a tag."""
    return 200, one(call.api.releases, "tag_name", call.words[1], "Release")
