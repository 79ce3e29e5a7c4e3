"""A stand-in for kubectl and the cluster behind it: put `$CLUSTER/bin` on PATH, see `Cluster`.

True to the original: the arguments and documents that kubectl is given; kustomize, which is the
real one; revisions, their numbers and hashes, what an undo restores, annotations, the ConfigMap's
keys of a release; the pod, which is a real `python -m service` with the environment of its
Deployment, or whatever `pod` in config.json starts; a rollout that waits for /readyz, and fails.

Not true: one pod a stage, and no two at once, so that the old one does not serve on while a new one
starts; a pod only changes when somebody waits for the rollout; nothing is validated, admitted,
authorised, scheduled, scaled or routed; apply replaces instead of merging. A canary of Argo
Rollouts is moved like any rollout, or fails at once with `canary: fails`.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.pods import REVISION, ROOT, Document, Stage, read_pod, stop_pod

APP = "landcover"


class Cluster:
    """What a test prepares and looks into."""

    def __init__(self, folder: Path) -> None:
        """Make an empty cluster; `bin` is the folder for PATH."""
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        shim = self.bin / "kubectl"
        line = (
            f"CLUSTER='{folder}' PYTHONPATH='{ROOT}' exec '{sys.executable}' -m tests.fakes.cluster"
        )
        shim.write_text(f'#!/bin/sh\n{line} "$@"\n', encoding="utf-8")
        shim.chmod(0o755)
        self.configure(stages={}, images={})

    def configure(self, **values: Any) -> None:
        """Change config.json.

        stages: namespace -> {"port": ..., "settings": {variables on top of the Deployment's}};
        images: image -> folder of the bundle in it; pod: command that is the pod, instead of the
        service from the working tree (environment: IMAGE, PORT and the pod's); ready_within:
        image -> seconds; kinds: API resources beside the built-in ones; canary: "fails".
        """
        path = self.folder / "config.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(before | values), encoding="utf-8")

    def calls(self) -> list[Document]:
        """What kubectl was asked for: `argv` and `stdin` of each call."""
        path = self.folder / "calls.jsonl"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return [json.loads(line) for line in text.split("\n")[:-1]]  # the last may be half written

    def stop(self) -> None:
        """End every pod."""
        for folder in self.folder.glob("stages/*"):
            stop_pod(folder)


class Kubectl:
    """One call."""

    def __init__(self, folder: Path, words: list[str], stdin: str) -> None:
        options = [word for word in words if word.startswith("-")]
        self.options = dict((word.lstrip("-") + "=").split("=", 1) for word in options)
        self.options = {key: value.removesuffix("=") for key, value in self.options.items()}
        self.words = [word for word in words if not word.startswith("-")]
        self.folder, self.stdin = folder, stdin
        self.stage = Stage(folder, self.options.get("namespace", "default"))

    def run(self) -> int:
        """Do what the words say."""
        verb = "_".join(self.words[: {"rollout": 2, "argo": 3}.get(self.words[0], 1)])
        method = getattr(self, verb.replace("-", "_"), None)
        if method is None:
            return fail(f'error: unknown command "{verb}" for "kubectl"')
        code: int = method() or 0
        self.stage.save()
        return code

    def api_resources(self) -> None:
        group = self.options["api-group"]
        kinds = self.stage.config.get("kinds", [])
        print("\n".join(kind for kind in kinds if kind.endswith(f".{group}")))

    def apply(self) -> int:
        documents = [item for item in yaml.safe_load_all(self.stdin) if item]
        for document in documents:
            kind, name = document["kind"].lower(), document["metadata"]["name"]
            if kind == "configmap" and "data" in document:
                self.stage.state["settings"][name] = document["data"]
            if kind == "deployment":
                self.stage.state["annotations"] |= document["metadata"].get("annotations", {})
                self.stage.change(document["spec"]["template"])
                self.stage.remember()
            print(f"{kind}/{name} configured")
        return 0

    def get(self) -> int:
        kind, _, name = self.words[1].partition("/")
        method = getattr(self, f"_get_{kind.split('.')[0]}")
        found = method() if self.stage.state["revisions"] or kind == "configmap" else None
        if found is not None:
            print(json.dumps(found))
        return 0

    def _get_deployment(self) -> Document:
        number = 1 if self.stage.is_complete() and self._is_new() else 0
        counts = dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas"), number)
        generation = self.stage.state["generation"]
        metadata = {"annotations": self.stage.state["annotations"], "generation": generation}
        return {
            "metadata": metadata,
            "spec": {"replicas": 1, "template": self.stage.current["template"]},
            "status": counts | {"observedGeneration": generation},
        }

    def _get_replicasets(self) -> Document:
        return {
            "items": [
                {
                    "metadata": {
                        "labels": {"pod-template-hash": item["hash"]},
                        "annotations": {REVISION: str(item["number"])},
                    }
                }
                for item in self.stage.state["revisions"]
            ]
        }

    def _get_pods(self) -> Document:
        reason, _, message = self.stage.state.get("trouble", "").partition(": ")
        waiting = {"reason": reason, "message": message} if reason else None
        return {"items": [{"status": {"containerStatuses": [{"state": {"waiting": waiting}}]}}]}

    def _get_configmap(self) -> Document:
        return {"data": self.stage.wanted()}

    def _get_rollouts(self) -> Document:
        phase = "Healthy" if self.stage.is_complete() and self._is_new() else "Degraded"
        return {
            "status": {
                "phase": phase,
                "workloadObservedGeneration": str(self.stage.state["generation"]),
            }
        }

    def _is_new(self) -> bool:
        pod = read_pod(self.stage.folder)
        return pod is not None and pod["hash"] == self.stage.current["hash"]

    def annotate(self) -> None:
        self.stage.state["annotations"] |= dict(word.split("=", 1) for word in self.words[2:])
        self.stage.remember()

    def patch(self) -> None:
        for key, value in json.loads(self.options["patch"])["data"].items():
            assert value is None, "only keys are taken away"
            (self.stage.folder / "releases" / key / "wanted.json").unlink(missing_ok=True)

    def rollout_status(self) -> int:
        trouble = self.stage.state["trouble"] = self.stage.start()
        if trouble:
            return fail("error: timed out waiting for the condition")
        print(f'deployment "{APP}" successfully rolled out')
        return 0

    def rollout_undo(self) -> int:
        number = int(self.options.get("to-revision", "0"))
        revisions = self.stage.state["revisions"]
        found = [item for item in revisions[:-1] if number in (0, item["number"])]
        if not found:
            return fail(f"error: no rollout history found for deployment {APP!r}")
        self.stage.state["annotations"] = dict(found[-1]["annotations"])
        self.stage.change(found[-1]["template"])
        self.stage.remember()
        return 0

    def rollout_restart(self) -> None:
        template = json.loads(json.dumps(self.stage.current["template"]))
        stamp = {"kubectl.kubernetes.io/restartedAt": str(time.time_ns())}
        template["metadata"].setdefault("annotations", {}).update(stamp)
        self.stage.change(template)
        self.stage.remember()

    def argo_rollouts_version(self) -> None:
        print("kubectl-argo-rollouts: v1.8.0")

    def argo_rollouts_status(self) -> int:
        if self.stage.config.get("canary") == "fails" and not self._is_new():
            reason = 'Metric "confidence" assessed Failed due to failed (1) > failureLimit (0)'
            return fail(f"Error: The rollout is in a degraded state with message: {reason}")
        return self.rollout_status()

    def argo_rollouts_abort(self) -> None:
        print(f"rollout '{APP}' aborted")


def fail(message: str) -> int:
    print(message, file=sys.stderr)
    return 1


def kustomize(folder: Path, target: str) -> int:
    """The real one: that of another kubectl on PATH, or kustomize itself."""
    places = os.environ["PATH"].split(os.pathsep)
    path = os.pathsep.join(item for item in places if Path(item).resolve() != folder / "bin")
    if kubectl := shutil.which("kubectl", path=path):
        return subprocess.run([kubectl, "kustomize", target], check=False).returncode
    if alone := shutil.which("kustomize", path=path):
        return subprocess.run([alone, "build", target], check=False).returncode
    return fail("error: neither kubectl nor kustomize is installed")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(kubectl: type[Kubectl]) -> int:
    """Be kubectl."""
    folder, words = Path(os.environ["CLUSTER"]).resolve(), sys.argv[1:]
    stdin = sys.stdin.read() if "--filename=-" in words else ""
    with locked(folder):
        with (folder / "calls.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"argv": words, "stdin": stdin}) + "\n")
        if words[0] == "kustomize":
            return kustomize(folder, words[1])
        return kubectl(folder, words, stdin).run()


if __name__ == "__main__":
    sys.exit(main(Kubectl))
