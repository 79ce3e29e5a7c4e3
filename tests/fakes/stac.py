"""A STAC API that fails as the public ones do, and the server of its files.

True to STAC API 1.0 as far as the source asks: the root with its links, item search by POST with
boxes, dates and collections, pages by a token in the body of the next link, an empty answer for an
unknown collection. Files have ranges. What goes wrong, and how often, is a list a path: `trouble`.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urljoin, urlsplit

from tests.fakes.http import Handler, serving

CONFORMS = ("core", "item-search", "collections")


@dataclass
class Catalogue:
    """What the catalogue has, what goes wrong, and what it was asked."""

    items: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    trouble: defaultdict[str, list[int | str]] = field(default_factory=lambda: defaultdict(list))
    """Path -> what happens to its next requests: a status, or hang, cut, flip, whole, redirect."""
    methods: tuple[str, ...] = ("GET", "POST")
    """Of searching."""
    largest_page: int = 10_000
    """Items; larger pages fail with 502."""
    token: int = 0
    """Number of the token that opens files; 0: they are open."""
    forms: list[dict[str, str]] = field(default_factory=list)
    """What was asked for with tokens of OpenID."""
    asked: Counter[str] = field(default_factory=Counter)
    """Number of requests by method and path."""
    ranges: list[str] = field(default_factory=list)
    released: Event = field(default_factory=Event)
    """Ends what hangs."""


class Answer(Handler[Catalogue]):
    """Answers a request."""

    def do_GET(self) -> None:
        """The root, collections, tokens and files."""
        path, query = urlsplit(self.path).path, urlsplit(self.path).query
        if path == "/search":
            asked: dict[str, Any] = dict(parse_qsl(query))
            asked["bbox"] = [float(number) for number in asked["bbox"].split(",")]
            return self.search(asked)
        trouble = self.trouble(path)
        if trouble is None:
            return None
        if path == "/":
            return self.json(self.root(), trouble)
        if path == "/collections":
            names = sorted({item["collection"] for item in self.state.items})
            collections = [{"type": "Collection", "id": name, **COLLECTION} for name in names]
            return self.json({"collections": collections, "links": []}, trouble)
        if path.startswith("/token/"):
            return self.json({"token": f"sig={self.state.token}"}, trouble)
        return self.file(path, trouble)

    def do_POST(self) -> None:
        """Search, or a token of OpenID."""
        content = self.content()
        if self.path == "/openid":
            return self.log_in(dict(parse_qsl(content.decode())))
        return self.search(json.loads(content))

    def search(self, asked: dict[str, Any]) -> None:
        """Answer with a page of items, and where the next one is."""
        trouble = self.trouble("/search")
        if trouble is None:
            return None
        start, limit = int(asked.get("token", 0)), int(asked["limit"])
        if limit > self.state.largest_page:
            return self.reply(502, b'{"message": "Internal server error"}')
        found = [item for item in self.state.items if matches(item, asked)]
        more: dict[str, Any] = {
            "rel": "next",
            "href": f"{self.address}/search",
            "method": self.command,
        }
        following = {**asked, "token": start + limit}
        if self.command == "POST":
            more["body"] = following
        else:
            following["bbox"] = ",".join(map(str, asked["bbox"]))
            more["href"] += f"?{urlencode(following)}"
        page = {
            "type": "FeatureCollection",
            "features": [located(item, self.address) for item in found[start : start + limit]],
            "links": [more] if start + limit < len(found) else [],
        }
        return self.json(page, trouble)

    def log_in(self, form: dict[str, str]) -> None:
        """Give a token; the password is `right`, and a session is `session`."""
        if self.trouble("/openid") is None:
            return None
        self.state.forms.append(form)
        if "right" not in form.values() and "session" not in form.values():
            return self.reply(401, b"{}")
        token = {"access_token": str(self.state.token), "expires_in": 600}
        return self.json(token | {"refresh_token": "session"}, "")

    @property
    def address(self) -> str:
        """Of this server."""
        return f"http://{self.headers['Host']}"

    def trouble(self, path: str) -> str | None:
        """Count the request; make its trouble. None: it has been answered."""
        self.state.asked[f"{self.command} {path}"] += 1
        waiting = self.state.trouble[path]
        trouble = waiting.pop(0) if waiting else ""
        if trouble == "hang":
            self.state.released.wait(10)
            self.close_connection = True
            return None
        if isinstance(trouble, int):
            self.reply(trouble, b"{}", headers={"Retry-After": 0} if trouble == 429 else {})
            return None
        return trouble

    def json(self, document: dict[str, Any], trouble: str) -> None:
        """Answer with JSON, or with half of it."""
        body = json.dumps(document).encode()
        self.reply(200, body[: len(body) // 2] if trouble == "cut" else body)

    def root(self) -> dict[str, Any]:
        """The landing page."""
        address = self.address
        return {
            "type": "Catalog",
            "stac_version": "1.0.0",
            "id": "fake",
            "description": "a catalogue",
            "conformsTo": [f"https://api.stacspec.org/v1.0.0/{name}" for name in CONFORMS],
            "links": [
                {"rel": "self", "href": address},
                {"rel": "root", "href": address},
                {"rel": "data", "href": f"{address}/collections"},
                *(
                    {"rel": "search", "href": f"{address}/search", "method": method}
                    for method in self.state.methods
                ),
            ],
        }

    def file(self, path: str, trouble: str) -> None:
        """Answer with a file, from the byte that is asked for."""
        bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if trouble == "redirect":
            other = self.address.replace("127.0.0.1", "localhost")
            return self.reply(302, headers={"Location": other + self.path})
        given = bearer or parse_qs(urlsplit(self.path).query).get("sig", ["0"])[0]
        if self.state.token and given != str(self.state.token):
            return self.reply(403)
        content = self.state.files.get(path)
        if content is None:
            return self.reply(404)
        asked = self.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        self.state.ranges.append(asked)
        if trouble == "whole":
            start = 0
        if start >= len(content):
            return self.reply(416, headers={"Content-Range": f"bytes */{len(content)}"})
        if trouble == "flip":
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        half = (start + len(content)) // 2
        self.wfile.write(content[start : half if trouble == "cut" else None])
        self.close_connection = True
        return None


COLLECTION = {
    "stac_version": "1.0.0",
    "description": "scenes",
    "license": "other",
    "extent": {
        "spatial": {"bbox": [[-180, -90, 180, 90]]},
        "temporal": {"interval": [["2015-06-23T00:00:00Z", None]]},
    },
    "links": [],
}


def matches(item: dict[str, Any], body: dict[str, Any]) -> bool:
    """Whether an item is in the collection, the box and the dates of a search."""
    start, end = body["datetime"].split("/")
    west, south, east, north = body["bbox"]
    left, low, right, high = item["bbox"]
    return (
        item["collection"] in body["collections"]
        and start <= item["properties"]["datetime"] <= end
        and not (right < west or east < left or high < south or north < low)
    )


def located(item: dict[str, Any], address: str) -> dict[str, Any]:
    """An item whose files are at this server."""
    assets = {
        name: {**asset, "href": urljoin(address, asset["href"])}
        for name, asset in item["assets"].items()
    }
    link = {"rel": "self", "href": f"{address}/collections/x/items/{item['id']}"}
    return {**item, "assets": assets, "links": [link]}


@contextmanager
def catalogue(state: Catalogue) -> Iterator[str]:
    """Run it until the block ends; gives its address."""
    with serving(Answer, state) as url:
        try:
            yield url
        finally:
            state.released.set()
