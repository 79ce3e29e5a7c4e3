"""The stand-in for kubectl of tests/fakes/cluster.py, for a namespace with several Deployments.

Beside what that one does: each Deployment has its own pod; objects are kept by kind and name, with
their labels; `delete` by kind and selector. In config.json `stages` are Deployments here.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.pods import Document, Stage, stop_pod
from tests.fakes.cluster import Cluster, Kubectl, fail, main


class ReviewCluster(Cluster):
    """What a test prepares and looks into."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        shim = self.bin / "kubectl"
        text = shim.read_text(encoding="utf-8")
        shim.write_text(text.replace("tests.fakes.cluster", __name__), encoding="utf-8")

    def objects(self) -> dict[str, Any]:
        """What is there: `kind/name` -> the document."""
        return read_objects(self.folder)


def read_objects(folder: Path) -> dict[str, Any]:
    path = folder / "objects.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


class Namespace(Kubectl):
    """One call."""

    def __init__(self, folder: Path, words: list[str], stdin: str) -> None:
        super().__init__(folder, words, stdin)
        self.documents: list[Document] = [item for item in yaml.safe_load_all(stdin) if item]
        self.stage = Stage(folder, self._deployment())

    def _deployment(self) -> str:
        named = [word for word in self.words if word.startswith("deployment/")]
        applied = [item["metadata"]["name"] for item in self.documents if is_deployment(item)]
        selected = self._selected().get("app.kubernetes.io/instance")
        return (named or applied or [f"landcover-{selected}"])[0].removeprefix("deployment/")

    def _selected(self) -> dict[str, str]:
        pairs = [pair for pair in self.options.get("selector", "").split(",") if pair]
        return dict(pair.split("=") for pair in pairs)

    def apply(self) -> int:
        objects = read_objects(self.folder)
        for item in self.documents:
            objects[f"{item['kind'].lower()}/{item['metadata']['name']}"] = item
        self._keep(objects)
        return super().apply()

    def delete(self) -> int:
        wanted = self._selected()
        if not wanted or len(self.words) != 2:
            return fail("error: resource(s) were provided, but no name was specified")
        objects = read_objects(self.folder)
        for key, item in list(objects.items()):
            kind, _, name = key.partition("/")
            if kind in self.words[1].split(",") and wanted.items() <= labels(item).items():
                del objects[key]
                print(f'{kind} "{name}" deleted')
                if is_deployment(item):
                    folder = self.folder / "stages" / name
                    stop_pod(folder)
                    shutil.rmtree(folder)
        self._keep(objects)
        self.stage = Stage(self.folder, "none")
        return 0

    def _keep(self, objects: dict[str, Document]) -> None:
        path = self.folder / "objects.json"
        path.write_text(json.dumps(objects, indent=1), encoding="utf-8")


def is_deployment(item: Document) -> bool:
    return bool(item["kind"] == "Deployment")


def labels(item: Document) -> dict[str, str]:
    return dict(item["metadata"].get("labels", {}))


if __name__ == "__main__":
    sys.exit(main(Namespace))
