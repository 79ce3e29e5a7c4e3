"""A stand-in for kubectl and the cluster behind it: put `bin` of a `Cluster` on PATH.

`kubectl` is a shell script that hands its process id and its input to the test's process, which
answers: no Python is started for a call.

True to the original: the arguments and documents that kubectl is given; kustomize, which is the
real one, asked once for the same files; revisions, their numbers and hashes, what an undo restores,
annotations, the ConfigMap's keys of a release; the pod, which is a real `python -m service` with
the environment of its Deployment, or whatever `pod` of the configuration starts; a rollout that
waits for /readyz, and fails. A Rollout of Argo Rollouts: observedGeneration, a text; the phases
Healthy, Paused and Degraded; an abort, which a new template ends; ReplicaSets with its own
annotation and label. A dry run on the server changes nothing.

Not true: one pod a stage, and no two at once, so that the old one does not serve on while a new one
starts; a pod only changes when somebody waits for the rollout, or looks at the Rollout; nothing is
validated, admitted, authorised, scheduled, scaled or routed; apply replaces instead of merging. A
canary takes no steps, or fails at once with `canary: fails`.
"""

import hashlib
import json
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any

import yaml

from tests.e2e.pods import REVISION, Document, Stage, container, read_pod

APP = "landcover"
ARGO = "rollouts.argoproj.io"
WORKLOADS = {
    "deployment": (REVISION, "pod-template-hash"),
    ARGO: ("rollout.argoproj.io/revision", "rollouts-pod-template-hash"),
}
"""Annotation of a revision, and label with the hash of its template."""

CLIENT = """\
#!/bin/bash
stdin=
case " $* " in *" --filename=- "*) IFS= read -r -d '' stdin ;; esac
exec 3<>/dev/tcp/127.0.0.1/PORT
printf '%s\\0' "$$" "$stdin" >&3
IFS= read -r -d '' code <&3
IFS= read -r -d '' errors <&3
cat <&3
printf '%s' "$errors" >&2
exit "$code"
"""
"""The stand-in on PATH; the server reads its arguments, folder and environment from /proc."""


class Refusal(Exception):
    """A line of kubectl on standard error, and exit code 1."""


class Call:
    """One call of kubectl: what it is given, and what it prints."""

    def __init__(self, process: int, stdin: str) -> None:
        self.process = process
        place = Path(f"/proc/{process}")
        self.argv = _strings(place / "cmdline")[2:]  # after the shell and its script
        self.environment = dict(item.split("=", 1) for item in _strings(place / "environ"))
        self.folder = (place / "cwd").readlink()
        self.stdin = stdin
        self.output: list[str] = []

    def say(self, *lines: str) -> None:
        self.output += lines


def _strings(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="surrogateescape").split("\0")[:-1]


class Cluster:
    """What a test prepares and looks into."""

    def __init__(self, folder: Path) -> None:
        """Make an empty cluster; `bin` is the folder for PATH."""
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        self.config: dict[str, Any] = {"stages": {}, "images": {}}
        self.stages: dict[str, Stage] = {}
        self._calls: list[Document] = []
        self._lock = threading.Lock()
        self._server = _Server(self)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        shim = self.bin / "kubectl"
        port = str(self._server.server_address[1])
        shim.write_text(CLIENT.replace("PORT", port), encoding="utf-8")
        shim.chmod(0o755)

    def configure(self, **values: Any) -> None:
        """Change the configuration.

        stages: namespace -> {"port": ..., "settings": {variables on top of the Deployment's}};
        images: image -> folder of the bundle in it; pod: command that is the pod, instead of the
        service from the working tree (environment: IMAGE, PORT and the pod's); ready_within:
        image -> seconds; kinds: API resources beside the built-in ones; canary: "fails", or
        "waits" in a step; refusal: what an apply is refused with, trial: the same, in vain only;
        stuck: image -> (status of its pod, status of what runs it), if it never starts; server: its
        minor version.
        """
        self.config |= values

    def calls(self) -> list[Document]:
        """What kubectl was asked for: `argv` and `stdin` of each call."""
        return list(self._calls)

    def stage(self, name: str) -> Stage:
        """One namespace."""
        if name not in self.stages:
            self.stages[name] = Stage(self.folder / "stages" / name, name, self.config)
        return self.stages[name]

    def answer(self, call: Call) -> None:
        """Be kubectl; one call at a time.

        Raises:
            Refusal: the call fails.
        """
        with self._lock:
            self._calls.append({"argv": call.argv, "stdin": call.stdin})
            if call.argv[0] == "kustomize":
                call.say(kustomize(self.bin, call))
            else:
                self.kubectl(call).run()

    def kubectl(self, call: Call) -> "Kubectl":
        """What one call does."""
        return Kubectl(self, call)

    def stop(self) -> None:
        """End every pod, and the server."""
        for stage in self.stages.values():
            stage.stop()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        call = Call(int(self._read()), self._read())
        code, errors = 0, ""
        try:
            self.server.cluster.answer(call)
        except Refusal as refusal:
            code, errors = 1, f"{refusal}\n"
        output = "".join(f"{line}\n" for line in call.output)
        try:
            self.wfile.write(f"{code}\0{errors}\0{output}".encode())
        except OSError:  # the client was killed
            pass

    def _read(self) -> str:
        found = bytearray()
        while (byte := self.rfile.read(1)) not in (b"\0", b""):
            found += byte
        return found.decode("utf-8", "surrogateescape")


class Kubectl:
    """One call."""

    def __init__(self, cluster: Cluster, call: Call) -> None:
        options = [word for word in call.argv if word.startswith("-")]
        self.options = dict((word.lstrip("-") + "=").split("=", 1) for word in options)
        self.options = {key: value.removesuffix("=") for key, value in self.options.items()}
        self.words = [word for word in call.argv if not word.startswith("-")]
        self.cluster, self.call, self.say = cluster, call, call.say
        self.stage = cluster.stage(self.stage_name())

    def stage_name(self) -> str:
        """The stage that the call is about."""
        return self.options.get("namespace", "default")

    def run(self) -> None:
        """Do what the words say.

        Raises:
            Refusal: kubectl refuses it.
        """
        verb = "_".join(self.words[: {"rollout": 2}.get(self.words[0], 1)])
        method = getattr(self, verb.replace("-", "_"), None)
        if method is None:
            raise Refusal(f'error: unknown command "{verb}" for "kubectl"')
        method()

    def api_resources(self) -> None:
        group = self.options["api-group"]
        kinds = self.stage.config.get("kinds", [])
        self.say(*(kind for kind in kinds if kind.endswith(f".{group}")))

    def version(self) -> None:
        minor = str(self.stage.config.get("server", "32+"))
        server = {"minor": minor, "gitVersion": f"v1.{minor.strip('+')}.4"}
        self.say(json.dumps({"clientVersion": {"minor": "32"}, "serverVersion": server}))

    def apply(self) -> None:
        if refusal := self.stage.config.get("refusal"):
            raise Refusal(refusal)
        if "dry-run" in self.options:
            if trial := self.stage.config.get("trial"):
                raise Refusal(trial)
            return
        documents = [item for item in yaml.load_all(self.call.stdin, yaml.CSafeLoader) if item]
        for document in documents:
            kind, name = document["kind"].lower(), document["metadata"]["name"]
            if kind == "configmap" and "data" in document:
                self.stage.state["settings"][name] = document["data"]
            if kind in ("deployment", "rollout"):
                self.stage.state["kind"] = {"rollout": ARGO}.get(kind, kind)
                self.stage.state["annotations"] |= document["metadata"].get("annotations", {})
                self.stage.change(document["spec"]["template"])
                self.stage.remember()
            self.say(f"{kind}/{name} configured")

    def get(self) -> None:
        kind = self.words[1].partition("/")[0]
        missing = kind in WORKLOADS and self.stage.state.get("kind") != kind
        method = getattr(self, f"_get_{kind.split('.')[0]}")
        found = method() if self.stage.state["revisions"] and not missing else None
        if found is not None:
            self.say(json.dumps(found))

    def _get_deployment(self) -> Document:
        number = 1 if self.stage.is_complete() and self._is_new() else 0
        counts = dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas"), number)
        stuck = self._stuck()[1]
        return self._workload(
            counts | stuck | {"observedGeneration": self.stage.state["generation"]}
        )

    def _stuck(self) -> tuple[Document, Document]:
        image = container(self.stage.current)["image"]
        found = self.stage.config.get("stuck", {}).get(image, ({}, {}))
        return found[0], found[1]

    def _get_rollouts(self) -> Document:
        phase, message = "Healthy", ""
        fate = "" if self._is_new() else self.stage.config.get("canary", "")
        if self.stage.state.get("aborted") == self.stage.state["generation"]:
            phase, message = "Degraded", "RolloutAborted: Rollout aborted update"
        elif fate == "fails":
            reason = 'Metric "confidence" assessed Failed due to failed (1) > failureLimit (0)'
            phase, message = "Degraded", f"RolloutAborted: {reason}"
        elif fate == "waits":
            phase, message = "Paused", "CanaryPauseStep"
        elif trouble := self.stage.start(self.call.environment):
            self.stage.state["trouble"] = trouble
            phase, message = "Degraded", "ProgressDeadlineExceeded: ReplicaSet has timed out"
        generation = str(self.stage.state["generation"])
        return self._workload(
            {"phase": phase, "message": message, "observedGeneration": generation}
        )

    def _workload(self, status: Document) -> Document:
        annotations = dict(self.stage.state["annotations"])
        annotations[WORKLOADS[self.stage.state["kind"]][0]] = annotations.pop(REVISION)
        return {
            "metadata": {"annotations": annotations, "generation": self.stage.state["generation"]},
            "spec": {"replicas": 1, "template": self.stage.current["template"]},
            "status": status,
        }

    def _get_replicasets(self) -> Document:
        revision, label = WORKLOADS[self.stage.state["kind"]]
        found = []
        for item in self.stage.state["revisions"]:
            template = json.loads(json.dumps(item["template"]))
            template["metadata"]["labels"][label] = item["hash"]
            annotations = {revision: str(item["number"])}
            metadata = {"labels": {label: item["hash"]}, "annotations": annotations}
            found.append({"metadata": metadata, "spec": {"template": template}})
        return {"items": found}

    def _get_pods(self) -> Document:
        if any(self._stuck()):
            return {"items": [{"status": status} for status in self._stuck()[:1] if status]}
        reason, _, message = self.stage.state.get("trouble", "").partition(": ")
        waiting = {"reason": reason, "message": message} if reason else None
        return {"items": [{"status": {"containerStatuses": [{"state": {"waiting": waiting}}]}}]}

    def _get_configmap(self) -> Document:
        return {"data": self.stage.wanted()}

    def _is_new(self) -> bool:
        pod = read_pod(self.stage.folder)
        return pod is not None and pod["hash"] == self.stage.current["hash"]

    def annotate(self) -> None:
        self.stage.state["annotations"] |= dict(word.split("=", 1) for word in self.words[2:])
        self.stage.remember()

    def patch(self) -> None:
        change = json.loads(self.options["patch"])
        if self.words[1].startswith(ARGO):
            self._patch_rollout(change)
            return
        for key, value in change["data"].items():
            assert value is None, "only keys are taken away"
            (self.stage.folder / "releases" / key / "wanted.json").unlink(missing_ok=True)

    def _patch_rollout(self, change: Any) -> None:
        if self.options.get("subresource") == "status":
            assert change == {"status": {"abort": True}}
            self.stage.state["aborted"] = self.stage.state["generation"]
        elif self.options["type"] == "json":
            ((operation, path, template),) = [tuple(it.values()) for it in change]
            assert (operation, path) == ("replace", "/spec/template")
            self.stage.change(template)
            self.stage.remember()
        else:
            assert change["spec"].keys() == {"restartAt"}
            self.stage.stop()

    def rollout_status(self) -> None:
        self.stage.state["trouble"] = self.stage.start(self.call.environment)
        if self.stage.state["trouble"]:
            raise Refusal("error: timed out waiting for the condition")
        self.say(f'deployment "{APP}" successfully rolled out')

    def rollout_undo(self) -> None:
        number = int(self.options.get("to-revision", "0"))
        revisions = self.stage.state["revisions"]
        found = [item for item in revisions[:-1] if number in (0, item["number"])]
        if not found:
            raise Refusal(f"error: no rollout history found for deployment {APP!r}")
        self.stage.state["annotations"] = dict(found[-1]["annotations"])
        self.stage.change(found[-1]["template"])
        self.stage.remember()

    def rollout_restart(self) -> None:
        template = json.loads(json.dumps(self.stage.current["template"]))
        stamp = {"kubectl.kubernetes.io/restartedAt": str(time.time_ns())}
        template["metadata"].setdefault("annotations", {}).update(stamp)
        self.stage.change(template)
        self.stage.remember()


RENDERED: dict[str, str] = {}
"""What kustomize makes of the files with a digest."""


def kustomize(shims: Path, call: Call) -> str:
    """The real one: that of another kubectl on PATH, or kustomize itself.

    Raises:
        Refusal: it refuses the files, or is not installed.
    """
    target = call.folder / call.argv[1]
    key = hashlib.sha256(str(target.relative_to(target.parents[1])).encode())
    for file in sorted(target.parents[1].rglob("*")):
        key.update(f"\0{file.relative_to(target.parents[1])}\0".encode())
        key.update(file.read_bytes() if file.is_file() else b"")
    if key.hexdigest() not in RENDERED:
        places = call.environment["PATH"].split(os.pathsep)
        path = os.pathsep.join(item for item in places if Path(item).resolve() != shims.resolve())
        if kubectl := shutil.which("kubectl", path=path):
            words = [kubectl, "kustomize", str(target)]
        elif alone := shutil.which("kustomize", path=path):
            words = [alone, "build", str(target)]
        else:
            raise Refusal("error: neither kubectl nor kustomize is installed")
        done = subprocess.run(words, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise Refusal(done.stderr.strip())
        RENDERED[key.hexdigest()] = done.stdout
    return RENDERED[key.hexdigest()]
