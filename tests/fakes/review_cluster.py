"""The stand-in for kubectl of tests/fakes/cluster.py, for a namespace with several Deployments.

Beside what that one does: each Deployment has its own pod; objects are kept by kind and name, with
their labels; `delete` by kind and selector. `stages` of the configuration are Deployments here.
"""

import shutil
from pathlib import Path

import yaml

from tests.e2e.pods import Document
from tests.fakes.cluster import Call, Cluster, Kubectl, Refusal


class ReviewCluster(Cluster):
    """What a test prepares and looks into."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.objects: dict[str, Document] = {}
        """What is there: `kind/name` -> the document."""

    def kubectl(self, call: Call) -> Kubectl:
        return Namespace(self, call)


class Namespace(Kubectl):
    """One call."""

    cluster: ReviewCluster

    def stage_name(self) -> str:
        named = [word for word in self.words if word.startswith("deployment/")]
        applied = [item["metadata"]["name"] for item in self._documents() if is_deployment(item)]
        labels = (f"app.kubernetes.io/{key}" for key in ("name", "instance"))
        selected = "-".join(self._selected().get(label, "") for label in labels)
        return (named or applied or [selected])[0].removeprefix("deployment/")

    def _documents(self) -> list[Document]:
        return [item for item in yaml.load_all(self.call.stdin, yaml.CSafeLoader) if item]

    def _selected(self) -> dict[str, str]:
        pairs = [pair for pair in self.options.get("selector", "").split(",") if pair]
        return dict(pair.split("=") for pair in pairs)

    def apply(self) -> None:
        for item in self._documents():
            self.cluster.objects[f"{item['kind'].lower()}/{item['metadata']['name']}"] = item
        super().apply()

    def delete(self) -> None:
        wanted = self._selected()
        if not wanted or len(self.words) != 2:
            raise Refusal("error: resource(s) were provided, but no name was specified")
        for key, item in list(self.cluster.objects.items()):
            kind, _, name = key.partition("/")
            if kind in self.words[1].split(",") and wanted.items() <= labels(item).items():
                del self.cluster.objects[key]
                self.say(f'{kind} "{name}" deleted')
                if is_deployment(item) and name in self.cluster.stages:
                    stage = self.cluster.stages.pop(name)
                    stage.stop()
                    shutil.rmtree(stage.folder)


def is_deployment(item: Document) -> bool:
    return bool(item["kind"] == "Deployment")


def labels(item: Document) -> dict[str, str]:
    return dict(item["metadata"].get("labels", {}))
