"""A fake of Google Drive's API v2 on loopback, as much of it as DVC's client uses.

Written from Google's description of the API, which the client itself reads. It proves the path of
the client, and nothing about Google.
"""

import importlib
import itertools
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.fakes.http import Handler, serving

discovery: Any = importlib.import_module("googleapiclient.discovery")  # has no types
ROOT = "folder-of-the-team"
FOLDER = "application/vnd.google-apps.folder"


@dataclass
class Drive:
    """A Shared Drive with one folder."""

    files: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {
            ROOT: {"id": ROOT, "title": "team", "mimeType": FOLDER, "parents": []}
        }
    )
    contents: dict[str, bytes] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    refusal: str = ""
    """Why tokens and uploads are refused, as Google names it."""
    address: str = ""

    def add(self, metadata: dict[str, Any], content: bytes | None = None) -> dict[str, Any]:
        """Keep a file or a folder."""
        number = f"file-{next(self.numbers)}"
        entry = {"id": number, "mimeType": "application/octet-stream", **metadata}
        if content is not None:
            self.contents[number] = content
            entry["fileSize"] = str(len(content))
        self.files[number] = entry
        return entry

    def find(self, query: str) -> list[dict[str, Any]]:
        """Files of a query: of these parents, and of this title if one is given."""
        parents = set(re.findall(r"'([^']+)' in parents", query))
        title = re.search(r"title='((?:[^'\\]|\\.)*)'", query)
        return [
            entry
            for entry in self.files.values()
            if parents & {parent["id"] for parent in entry["parents"]}
            and (title is None or entry["title"] == title[1])
        ]


class Api(Handler[Drive]):
    """The routes."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        number, query = url.path.rpartition("/")[2], parse_qs(url.query)
        if url.path == "/drive/v2/files":
            self.json({"items": self.state.find(query["q"][0])})
        elif number not in self.state.files:
            self.json({"error": {"code": 404, "errors": [{"reason": "notFound"}]}}, 404)
        elif query.get("alt") == ["media"]:
            content = self.state.contents[number]
            self.reply(200, content, headers={"Content-Range": f"bytes 0-/{len(content)}"})
        else:
            self.json(self.state.files[number])

    def do_POST(self) -> None:
        body, path = self.content(), urlsplit(self.path).path
        if path == "/token" and self.state.refusal == "invalid_grant":
            self.json({"error": "invalid_grant", "error_description": "Invalid JWT"}, 400)
        elif path == "/token":
            self.json({"access_token": "token", "expires_in": 3600, "token_type": "Bearer"})
        elif self.state.refusal and path.startswith("/upload"):
            error = {"reason": self.state.refusal, "message": "Service Accounts have no quota"}
            self.json({"error": {"code": 403, "errors": [error], **error}}, 403)
        elif path.startswith("/upload"):
            entry = self.state.add(json.loads(body))
            place = f"{self.state.address}/upload/{entry['id']}"
            self.reply(200, headers={"Location": place})
        else:
            self.json(self.state.add(json.loads(body)))

    def do_PUT(self) -> None:
        number, content = self.path.rpartition("/")[2], self.content()
        self.state.contents[number] = content
        self.state.files[number]["fileSize"] = str(len(content))
        self.json(self.state.files[number])

    def do_DELETE(self) -> None:
        del self.state.files[urlsplit(self.path).path.rpartition("/")[2]]
        self.reply(204)

    def json(self, document: Any, status: int = 200) -> None:
        """Answer with a document."""
        self.reply(status, json.dumps(document).encode())


@contextmanager
def serving_drive(patch: pytest.MonkeyPatch, key_file: Path) -> Iterator[Drive]:
    """Run it until the block ends; the client of this process asks it with the key in the file."""
    drive = Drive()
    with serving(Api, drive) as drive.address:
        key = rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        document = {
            "type": "service_account",
            "client_id": "1",
            "client_email": "dvc@example.iam.gserviceaccount.com",
            "private_key_id": "1",
            "private_key": key.decode(),
            "token_uri": f"{drive.address}/token",
        }
        key_file.write_text(json.dumps(document), encoding="utf-8")
        folder = Path(discovery.__file__).parent / "discovery_cache" / "documents"
        text = (folder / "drive.v2.json").read_text(encoding="utf-8")
        text = text.replace("https://www.googleapis.com/", f"{drive.address}/")

        def build(*_: Any, http: Any = None, **__: Any) -> Any:
            return discovery.build_from_document(text, http=http)

        patch.setattr("pydrive2.auth.build", build)
        yield drive
