"""The Deployment itself, played by podman: what a kubelet would start from it, started for real.

podman is no cluster. It has no API server, so that the wanted model is kept in a file here; it does
not ask the probes, and knows neither fsGroup nor the size of an emptyDir.
"""

import json
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from delivery.rollout.manifests import Document, for_version, render, to_yaml, workload_of
from delivery.rollout.smoke_test import SmokeTest, read_bundle
from delivery.tags import parse_version
from tests.conftest import ROOT
from tests.e2e import containers, images
from tests.e2e.containers import HASH, KEY, Container
from tests.k8s.conftest import IMAGE
from tests.make.projects import Published

pytestmark = [
    containers.needed,
    pytest.mark.skipif(not shutil.which("catatonit"), reason="catatonit: make setup-e2e"),
]

project, image = images.project, images.image  # fixtures
TRY = """
import os, sys
for folder in sys.argv[1:]:
    try:
        open(os.path.join(folder, "probe"), "w").close()
        print("written")
    except OSError as error:
        print(error.strerror)
"""


class Play:
    """One play of staging's Deployment; its names are its own, since podman's are global."""

    def __init__(self, folder: Path, image: str) -> None:
        self.name = f"landcover-{uuid.uuid4().hex[:8]}"
        self.port = containers.free_port()
        self.file = folder / "play.yaml"
        self.environment = containers.configured(folder)
        overlays = ROOT / "k8s" / "overlays"
        objects = for_version(
            render("staging", "landcover", overlays), parse_version(images.V1), IMAGE
        )
        self.file.write_text(to_yaml(self.adapt(objects, image)), encoding="utf-8")

    def adapt(self, objects: list[Document], image: str) -> list[Document]:
        """The Deployment and its settings, with names of this play and without an API server."""
        settings = next(item for item in objects if "settings" in item["metadata"]["name"])
        del settings["data"]["SERVICE_CONFIGMAP"]
        deployment = workload_of(objects)
        deployment["metadata"]["name"] = self.name
        pod = deployment["spec"]["template"]["spec"]
        container = pod["containers"][0]
        container["image"] = image
        del container["ports"]  # the pod listens on the host's loopback itself
        settings["data"] |= {"SERVICE_HOST": "127.0.0.1", "SERVICE_PORT": str(self.port)}
        settings["data"]["SERVICE_OPEN_ROLES"] = "[]"  # as where others can reach it
        # podman 4.3 wants every secret to be there, and mounts none that is optional.
        absent = {it["name"] for it in pod["volumes"] if "secret" in it} - {"keys"}
        for owner, key in ((pod, "volumes"), (container, "volumeMounts")):
            owner[key] = [item for item in owner[key] if item["name"] not in absent]
        for item in pod["volumes"]:
            if "secret" in item:
                item["secret"] |= {"secretName": f"{self.name}-keys", "optional": False}
        for item in (*pod["volumes"], *container["volumeMounts"]):
            item["name"] = f"{self.name}-{item['name']}"
        return [settings, deployment]

    def podman(self, *words: str, stdin: str = "") -> str:
        """Run podman."""
        done = subprocess.run(
            ["podman", *words],
            env=self.environment,
            input=stdin,
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def up(self) -> Container:
        """Start it; it is ready."""
        keys = json.dumps({HASH: ["predict", "view"]})  # podman 4.3 decodes no base64 of a file
        secret = json.dumps({"apiVersion": "v1", "kind": "Secret", "data": {"api-keys": keys}})
        self.podman("secret", "create", f"{self.name}-keys", "-", stdin=secret)
        self.podman("kube", "play", "--quiet", "--network=host", str(self.file))
        found = Container(f"{self.name}-pod-0-service", f"http://127.0.0.1:{self.port}")
        found.wait_until_ready()
        return found

    def down(self) -> None:
        """End it and forget everything of it."""
        done = self.podman("pod", "ls", "--noheading", f"--filter=name={self.name}-pod-0")
        if done:
            self.podman("pod", "rm", "--force", "--time=0", f"{self.name}-pod-0")
        for kind in ("volume", "secret"):
            listed = self.podman(kind, "ls", "--noheading", "--format={{.Name}}").split()
            for name in listed:
                if name.startswith(self.name):
                    self.podman(kind, "rm", name)


@pytest.fixture(scope="module")
def play(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Play]:
    """A play that has not begun."""
    if not (shutil.which("kubectl") or shutil.which("kustomize")):
        pytest.skip("neither kubectl nor kustomize is installed: make setup-e2e")
    found = Play(tmp_path_factory.mktemp("play"), image)
    try:
        yield found
    finally:
        found.down()


@pytest.fixture(scope="module")
def pod(play: Play) -> Container:
    """The Deployment's pod, ready."""
    return play.up()


def inspect(pod: Container) -> Any:
    return json.loads(containers.call("podman", "inspect", pod.name))[0]


def test_the_pod_passes_the_smoke_test_of_a_rollout(pod: Container, project: Published) -> None:
    expected = read_bundle(images.V1, images.bundle_of(project, images.V1))
    pod.wait_for_workers(2)
    found = SmokeTest(pod.url, expected, KEY).run(0, report=lambda line: None)
    assert found[1].startswith(f"version: {images.V1} in all of 2 workers")


def test_pod_has_the_limits_and_rights_of_the_deployment(pod: Container) -> None:
    found = inspect(pod)
    host = found["HostConfig"]
    assert host["ReadonlyRootfs"] and host["Memory"] == 2**30 and host["NanoCpus"] == 0
    assert found["EffectiveCaps"] in (None, [])
    assert pod.python("import os; print(os.getuid(), os.getgid())") == "10001 10001"
    assert "NoNewPrivs:\t1" in pod.python("print(open('/proc/self/status').read())")


def test_pod_can_write_only_to_its_two_volumes(pod: Container) -> None:
    folders = ["/tmp", "/var/lib/service", "/", "/app", "/var/tmp", "/root"]
    code = TRY.replace("sys.argv[1:]", repr(folders))
    said = pod.python(code).splitlines()
    assert said[:2] == ["written"] * 2
    assert not any("written" in line for line in said[2:])


def test_pod_has_release_and_tag_in_its_environment(pod: Container) -> None:
    code = "import os; print(os.environ['SERVICE_RELEASE'], os.environ['SERVICE_TAG'])"
    assert pod.python(code) == f"landcover-v1.0.0 {images.V1}"


def test_request_without_a_key_is_refused(pod: Container) -> None:
    with pod.client() as client:
        answer = client.post("/predict", content=b"", headers={"authorization": ""})
    assert answer.status_code == 401


def test_pod_drains_and_stops_within_its_grace_period(pod: Container, play: Play) -> None:
    grace = deployment_grace(play)
    assert pod.stop(grace) == 0
    said = [line.get("event") for line in pod.lines()]
    assert said.index("stopping") < said.index("stopped")


def deployment_grace(play: Play) -> int:
    text = play.file.read_text(encoding="utf-8")
    return int(text.split("terminationGracePeriodSeconds: ")[1].split()[0])
