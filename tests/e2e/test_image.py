"""The image of the service, built and run for real: what it answers, how it ends, what is in it."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from contracts.commit import folder_digest
from tests.e2e import containers
from tests.e2e.containers import Container
from tests.e2e.images import V1, V2, bundle_of, image, project, record
from tests.fakes import git_http
from tests.make.bundles import CLASSES, expected
from tests.make.images import CHIP, CHIPS, picture
from tests.make.mounts import mount
from tests.make.processes import until
from tests.make.projects import Published, digest_of

__all__ = ["image", "project"]  # fixtures
pytestmark = containers.needed

MOST = 400 * 2**20  # bytes of the whole image
FORBIDDEN = {
    *("torch", "pip", "pip3", "setuptools", "ensurepip", "wheel", "git-daemon"),
    *("gcc", "cc", "g++", "make", ".git", ".dvc", "pipeline", "delivery"),
}
LIST = """
import json, os, stat
found = []
for folder, folders, files in os.walk("/"):
    hidden = ("/proc", "/sys", "/tmp")
    folders[:] = [name for name in folders if os.path.join(folder, name) not in hidden]
    for name in folders + files:
        path = os.path.join(folder, name)
        found.append((path, os.lstat(path).st_mode, os.access(path, os.R_OK)))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def container(image: str, project: Published) -> Iterator[Container]:
    """The image as a cluster runs it, with the project's repository and remote mounted."""
    volumes = [f"--volume={path}:{path}:ro" for path in (project.folder, project.remote)]
    begun = time.monotonic()
    repository = {"repository": project.folder, "reconcile": 0.1}
    with containers.running(image, *containers.LOCKED, *volumes, **repository) as container:
        print(f"\nready {time.monotonic() - begun:.1f} s after podman was called")
        yield container


def test_labels_name_version_commit_and_bundle(image: str, project: Published) -> None:
    found = json.loads(containers.call("podman", "image", "inspect", image))[0]
    commit = project.git("rev-parse", f"{V1}^{{commit}}")
    sha256 = digest_of(bundle_of(project, V1))
    labels = found["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == V1
    assert labels["org.opencontainers.image.revision"] == commit
    assert labels["io.conveyor.bundle.sha256"] == sha256
    assert labels["io.conveyor.runtime"] == "cpu"
    assert labels["io.conveyor.extras"] == "registry,stream"
    assert found["Config"]["User"] == "10001:0"
    assert found["Config"]["StopSignal"] == "SIGTERM"
    assert "SERVICE_HOST=0.0.0.0" in found["Config"]["Env"]
    said = record(project)
    assert (said["version"], said["revision"], said["bundle_sha256"]) == (V1, commit, sha256)


def test_image_is_smaller_than_400_mib(image: str, project: Published) -> None:
    size = record(project)["size"]
    print(f"\n{size / 2**20:.0f} MiB")
    assert size < MOST


def test_predictions_equal_onnx_runtime_in_every_format(
    container: Container, project: Published
) -> None:
    truth = expected(bundle_of(project, V1), CHIP)
    with container.client() as client:
        for name, content in CHIPS.items():
            answer = client.post("/predict", files={"file": content})
            assert answer.status_code == 200, f"{name}: {answer.text}"
            assert answer.json()["class"] == CLASSES[int(truth.argmax())]
            found = [answer.json()["probabilities"][label] for label in CLASSES]
            np.testing.assert_allclose(found, truth, atol=1e-6)
        for form in ("PNG", "JPEG"):
            assert client.post("/preview", files={"file": picture(form)}).status_code == 200


def test_version_endpoint_names_the_tag_of_the_image(
    container: Container, project: Published
) -> None:
    with container.client() as client:
        found = client.get("/version").json()["model"]
    assert (found["tag"], found["sha256"]) == (V1, digest_of(bundle_of(project, V1)))


def test_container_runs_as_any_user_without_write_access(container: Container) -> None:
    assert json.loads(container.python("import os; print([os.getuid(), os.getgid()])")) == [
        123456,
        0,
    ]
    listed = json.loads(container.python(LIST))
    unreadable = [path for path, _, readable in listed if not readable and path.startswith("/app")]
    assert unreadable == []
    status = container.python("print(open('/proc/self/status').read())")
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    failed = container.python(
        "try: open('/app/x', 'w')\nexcept OSError as error: print(error.strerror)"
    )
    assert failed == "Read-only file system"


def test_image_has_only_files_that_serving_needs(container: Container) -> None:
    listed = json.loads(container.python(LIST))
    assert {path for path, _, _ in listed if Path(path).parent == Path("/app")} == {
        f"/app/{name}"
        for name in ("contracts", "model", "pycache", "release", "sbom.json", "service", "venv")
    }
    for path, _, _ in listed:
        name = Path(path).name
        own = not path.startswith(("/usr/lib/python3", "/usr/share", "/usr/lib/x86_64"))
        assert name not in FORBIDDEN or not own, path
    assert container.python("import importlib.util as u; print(u.find_spec('torch'))") == "None"
    assert container.python("import importlib.util as u; print(u.find_spec('pip'))") == "None"


def test_image_has_byte_code_of_all_imported_modules(container: Container) -> None:
    code = (
        "import sys, os, service.server.worker, service.registry.download, dvc.repo\n"
        "files = {m.__cached__ for m in sys.modules.values() if getattr(m, '__cached__', None)}\n"
        "print([file for file in files if not os.path.exists(file)])"
    )
    assert container.python(code) == "[]"


def test_clients_of_all_dvc_remotes_work(container: Container) -> None:
    code = (
        "import dvc_http, dvc_s3, dvc_gdrive, pydrive2.fs, botocore.session\n"
        "from googleapiclient.discovery import build\n"
        "assert build('drive', 'v2', developerKey='x').files()\n"
        "session = botocore.session.get_session()\n"
        "for name in ('s3', 'sts'): assert session.create_client(name, region_name='eu-west-1')\n"
        "from oauth2client.crypt import Signer\n"
        "from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key\n"
        "from cryptography.hazmat.primitives import serialization as s\n"
        "key = generate_private_key(65537, 2048).private_bytes(\n"
        "    s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())\n"
        "print(len(Signer.from_string(key).sign(b'x')))"
    )
    assert container.python(code) == "256"


def test_bill_of_materials_lists_every_package(container: Container) -> None:
    bill = json.loads(container.python("print(open('/app/sbom.json').read())"))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    named = {component["purl"].partition("?")[0] for component in bill["components"]}
    assert len(named) == len(bill["components"])
    code = (
        "import importlib.metadata as m, json, re\n"
        "print(json.dumps([re.sub('[-_.]+', '-', d.name).lower() + '@' + d.version"
        " for d in m.distributions(path=['/app/venv/lib/python3.11/site-packages'])]))"
    )
    installed = json.loads(container.python(code))
    assert {f"pkg:pypi/{name}" for name in installed} <= named
    assert any(purl.startswith("pkg:deb/debian/git@") for purl in named)
    assert not any(purl.startswith("pkg:deb/debian/perl@") for purl in named)


def test_container_swaps_to_a_tag_of_a_mounted_repository(
    container: Container, project: Published
) -> None:
    with container.client() as client:
        answer = client.post("/replace_ml_model", json={"tag": V2})
        assert answer.status_code == 200, answer.text + container.logs()
        until(
            lambda: {worker["tag"] for worker in client.get("/version").json()["workers"]} == {V2}
        )
        answer = client.post("/predict", files={"file": CHIPS["NPY"]})
        truth = expected(bundle_of(project, V2), CHIP)
        found = [answer.json()["probabilities"][label] for label in CLASSES]
        np.testing.assert_allclose(found, truth, atol=1e-6)
        assert client.post("/rollback_ml_model").json()["model"]["tag"] == V1


def test_container_fetches_from_a_private_repository_with_a_mounted_token(
    image: str, project: Published, tmp_path: Path
) -> None:
    """Git of the image, its shell and its files; the user is none that owns the secrets."""
    with git_http.serving(project.folder.parent) as (url, state):
        secrets = tmp_path / "secrets"  # which others may read, unlike the folder around it
        mount(secrets, "git", {"username": state.user, "password": "gldt-of-last-year"})
        volumes = [
            f"--volume={secrets}:/etc/service:ro",
            f"--volume={project.remote}:{project.remote}:ro",
        ]
        settings = {"repository": f"{url}/{project.folder.name}/.git", "secrets": "/etc/service"}
        options = (*containers.LOCKED, *volumes)
        with (
            containers.running(image, *options, **settings) as container,
            container.client() as client,
        ):
            refused = client.post("/replace_ml_model", json={"tag": V2})
            assert refused.status_code == 503 and "renew the token" in refused.json()["detail"]
            mount(secrets, "git", {"username": state.user, "password": state.token})
            answer = client.post("/replace_ml_model", json={"tag": V2})
            assert answer.status_code == 200, answer.text + container.logs()
            assert "gldt-" not in container.logs()


def test_sigterm_ends_the_container_gracefully(image: str) -> None:
    volume = "--mount=type=volume,destination=/state"
    with containers.running(image, *containers.LOCKED, volume, state="/state") as container:
        assert container.stop() == 0
        assert container.lines()[-1]["event"] == "stopped"


def test_container_without_keys_does_not_start(image: str) -> None:
    done = containers.run_once(image, *containers.LOCKED)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "SERVICE_API_KEYS" in done.stderr


def test_folder_digest_equals_the_one_in_dvc_lock(project: Published) -> None:
    assert f"md5: {folder_digest(project.folder / 'model')}" in project.git(
        "show", f"{V1}:dvc.lock"
    )
