"""A stand-in for the pod of a stage: the routes that a rollout requests, without a model.

True to the service: the answers of /readyz, /version, /samples and /predict for the tag and the
bundle in its environment, golden chips with the probabilities of the bundle. Not true: everything
else; it knows no keys, a swap by its file alone, and fails with one setting only. It needs a tenth
of a second to start.

Environment: PORT, SERVICE_BUNDLE, SERVICE_TAG.
"""

import base64
import json
import os
import sys
import zlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MANIFEST = json.loads(Path(os.environ["SERVICE_BUNDLE"], "model.json").read_bytes())
TAG = os.environ["SERVICE_TAG"]
WANTED = Path(os.environ["SERVICE_STATE"], "wanted.json")
SAMPLE, CLASS = b"a sample", MANIFEST["classes"][0]
if "SERVICE_NOT_A_SETTING" in os.environ:
    sys.exit("error: SERVICE_NOT_A_SETTING: unknown setting")


def model() -> dict[str, Any]:
    """What serves: the tag in its environment, or the one that it was swapped to."""
    tag = json.loads(WANTED.read_bytes())["tag"] if WANTED.exists() else TAG
    return {"tag": tag, "sha256": MANIFEST["sha256"]}


ROUTES: dict[str, Callable[[], Any]] = {
    "/readyz": dict,
    "/version": lambda: {"model": model(), "workers": [model()]},
    "/samples": lambda: [{"index": 0, "answer": CLASS}],
}


def predict(content: bytes) -> dict[str, Any]:
    """The answer to a golden chip, or to the sample."""
    probabilities = {CLASS: 1.0}
    for golden in MANIFEST["golden"]:
        if content.endswith(zlib.decompress(base64.b64decode(golden["chip"]))):
            probabilities = dict(zip(MANIFEST["classes"], golden["probabilities"], strict=True))
    return {"class": CLASS, "probabilities": probabilities, "model": model()}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/samples/0":
            self.reply(SAMPLE)
        elif self.path in ROUTES:
            self.reply(json.dumps(ROUTES[self.path]()).encode())
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["content-length"]))
        self.reply(json.dumps(predict(content)).encode())

    def reply(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
