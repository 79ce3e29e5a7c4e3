"""Where a project is: the address of its GitLab, and its path there."""

import re

import requests

from delivery.errors import DeliveryError, GitLabError
from delivery.git import ORIGIN, Repository
from delivery.gitlab.client import TIMEOUT

ADDRESS = re.compile(
    r"(?:(?P<scheme>https?)://(?:[^@/]*@)?|ssh://(?:[^@/]*@)?|[^@/:]+@)"
    r"(?P<host>[^/:]+)(?P<port>:\d+(?=/))?[/:](?P<path>.+?)(?:\.git)?/?"
)


def is_project(address: str) -> bool:
    """Whether the address names a project, and not the server alone."""
    found = ADDRESS.fullmatch(address)
    return bool(found and "/" in found["path"])


def split(address: str) -> tuple[str, str]:
    """Server and path in the address of a project or of its repository.

    Raises:
        GitLabError: it is not such an address.
    """
    found = ADDRESS.fullmatch(address)
    if not found or not is_project(address):
        shown = re.sub(r"//[^@/]*@", "//", address)[:128]
        raise GitLabError(
            f"{shown!a} is not an address of a project: write https://gitlab.example.com/team/name"
        )
    # The port of an SSH address is not that of the API.
    port = found["port"] if found["scheme"] and found["port"] else ""
    return f"{found['scheme'] or 'https'}://{found['host']}{port}", found["path"]


def of_origin(cure: str) -> tuple[str, str]:
    """Server and path of the project that the remote origin names.

    Raises:
        GitLabError: it names none; `cure` ends the sentence.
    """
    try:
        return split(Repository().git("remote", "get-url", ORIGIN))
    except DeliveryError:
        raise GitLabError(f"the remote {ORIGIN} is not an address of GitLab: {cure}") from None


def locate(url: str, path: str) -> tuple[str, str]:
    """GitLab's own address, which may be below a path of the server: https://host/gitlab."""
    parts = path.split("/")
    for count in range(len(parts) - 1):
        base = "/".join([url, *parts[:count]])
        try:
            answer = requests.get(f"{base}/api/v4/version", timeout=TIMEOUT)
        except OSError:  # such as a RequestException
            break  # whoever connects next reports it
        if answer.status_code in (200, 401) and "json" in answer.headers.get("Content-Type", ""):
            return base, "/".join(parts[count:])
    return url, path
