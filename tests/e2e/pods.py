"""One namespace of the cluster that cluster.py stands in for: its revisions, and its one pod."""

import hashlib
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
REVISION = "deployment.kubernetes.io/revision"
READY_WITHIN = 60.0  # seconds; generous, the machine may be busy

Document = dict[str, Any]


class Stage:
    """One namespace."""

    def __init__(self, folder: Path, name: str, config: Document) -> None:
        self.folder, self.name, self.config = folder, name, config
        self.folder.mkdir(parents=True, exist_ok=True)
        self.state: Document = {"generation": 0, "annotations": {}, "revisions": [], "settings": {}}
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def stage(self) -> Document:
        """Its part of the configuration."""
        return dict(self.config["stages"].get(self.name, {}))

    @property
    def current(self) -> Document:
        found: Document = self.state["revisions"][-1]
        return found

    def release(self, revision: Document) -> str:
        values = {item["name"]: item.get("value", "") for item in container(revision)["env"]}
        return str(values.get("SERVICE_RELEASE", "wanted"))

    def wanted(self) -> dict[str, str]:
        """Keys of the ConfigMap `wanted-model`: what the pods of each release keep in a file."""
        files = self.folder.glob("releases/*/wanted.json")
        return {path.parent.name: path.read_text(encoding="utf-8") for path in files}

    def change(self, template: Document) -> None:
        """Give the Deployment a template; one that it had before comes back as the newest."""
        text = json.dumps(template, sort_keys=True).encode()
        code = hashlib.sha256(text).hexdigest()[:10]
        revisions = self.state["revisions"]
        if revisions and revisions[-1]["hash"] == code:
            return
        number = revisions[-1]["number"] + 1 if revisions else 1
        kept = [item for item in revisions if item["hash"] != code]
        kept.append({"number": number, "hash": code, "template": template})
        self.state["revisions"] = kept
        self.state["generation"] += 1

    def remember(self) -> None:
        """A revision has the annotations that the Deployment had with it."""
        self.state["annotations"][REVISION] = str(self.current["number"])
        self.current["annotations"] = dict(self.state["annotations"])

    def is_complete(self) -> bool:
        pod = read_pod(self.folder)
        return bool(self.state["revisions"]) and pod is not None and is_ready(self.url, pod)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.stage['port']}"

    def start(self, environment: Mapping[str, str]) -> str:
        """Make the stage serve the current template; why not, if it does not.

        Args:
            environment: of kubectl.
        """
        pod = read_pod(self.folder)
        if pod and pod["hash"] == self.current["hash"] and is_ready(self.url, pod):
            return ""
        self.stop()
        image = container(self.current)["image"]
        if image in self.config.get("stuck", {}):
            return "Stuck"
        if image not in self.config["images"] and "pod" not in self.config:
            return "ErrImagePull"
        log = self.folder / f"pod-{time.monotonic_ns()}.log"
        with log.open("wb") as stream:
            self.process = process = subprocess.Popen(
                self.config.get("pod") or [sys.executable, "-m", "service"],
                cwd=ROOT,
                env=self.environment(image, environment),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        pod = {"pid": process.pid, "born": born(process.pid), "hash": self.current["hash"]}
        (self.folder / "pod.json").write_text(json.dumps(pod), encoding="utf-8")
        within = self.config.get("ready_within", {}).get(image, READY_WITHIN)
        deadline = time.monotonic() + within
        while process.poll() is None and time.monotonic() < deadline:
            if is_ready(self.url, pod):
                return ""
            time.sleep(0.05)
        self.stop()
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"CrashLoopBackOff: {said[-1] if said else 'it said nothing'}"

    def stop(self) -> None:
        """End the pod in order, and wait for it."""
        if self.process:
            self.process.terminate()
            self.process.wait()
        (self.folder / "pod.json").unlink(missing_ok=True)

    def environment(self, image: str, given: Mapping[str, str]) -> dict[str, str]:
        """The pod's, as far as it makes sense outside a cluster."""
        found = {key: value for key, value in given.items() if not key.startswith("SERVICE_")}
        for source in container(self.current).get("envFrom", []):
            name = source.get("configMapRef", {}).get("name", "")
            found |= self.state["settings"].get(name, {})
        for item in container(self.current)["env"]:
            if item["name"].startswith("SERVICE_") and "value" in item:
                found[item["name"]] = item["value"]
        port = str(self.stage["port"])
        state = self.folder / "releases" / self.release(self.current)
        found |= {"SERVICE_HOST": "127.0.0.1", "SERVICE_PORT": port, "SERVICE_CONFIGMAP": ""}
        found["SERVICE_SECRETS"] = ""  # none are mounted: keys are among the stage's settings
        if image in self.config["images"]:
            found |= {"SERVICE_BUNDLE": self.config["images"][image], "SERVICE_STATE": str(state)}
        found |= {"SERVICE_OPEN_ROLES": "[]", "SERVICE_DRAIN": "0", "IMAGE": image, "PORT": port}
        return found | dict(self.stage.get("settings", {}))


def container(revision: Document) -> Document:
    found: Document = revision["template"]["spec"]["containers"][0]
    return found


def read_pod(folder: Path) -> Document | None:
    path = folder / "pod.json"
    pod: Document | None = json.loads(path.read_text()) if path.exists() else None
    return pod if pod and born(pod["pid"]) == pod["born"] != "" else None


def born(pid: int) -> str:
    """When a process started; empty for one that has ended. Numbers of processes are used again."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    state, *rest = status.rpartition(")")[2].split()
    return "" if state in "ZX" else rest[18]


def is_ready(url: str, pod: Document) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=10) as answer:
            return bool(answer.status == 200) and born(pod["pid"]) == pod["born"]
    except OSError:
        return False
