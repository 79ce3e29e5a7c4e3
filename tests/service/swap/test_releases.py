"""Two releases in one cluster: a canary swaps its model, and the stable pods keep theirs."""

from pathlib import Path

import httpx
import pytest

from service.errors import UnsafeSettings
from service.settings import read_settings
from tests.fakes.kubernetes import FakeKubernetes
from tests.make.bundles import make_bundle
from tests.make.processes import until
from tests.make.projects import Published, digest_of
from tests.make.server import Server, serving

STABLE, CANARY, OTHER = "landcover@v1.0.0", "landcover@v1.1.0", "landcover@v2.0.0"


def serves(server: Server) -> tuple[str, str]:
    model = httpx.get(server.url + "/version", timeout=60).json()["model"]
    return model["tag"], model["sha256"]


def test_releases_that_share_a_configmap_do_not_follow_each_other(
    bundle: Path, api: FakeKubernetes, tmp_path: Path
) -> None:
    project = Published(tmp_path / "project")
    other = project.publish_bundle(OTHER, seed=2)
    candidate = make_bundle(tmp_path / "candidate", seed=3)
    (tmp_path / "token").write_text("token-1")
    shared = {
        "workers": 1,
        "reconcile": 0.1,
        "repository": project.folder,
        "configmap": "ml/wanted-model",
        "kubernetes_api": api.url,
        "kubernetes_credentials": tmp_path,
    }
    with (
        serving(bundle, tmp_path / "a", tag=STABLE, release="v1.0.0", **shared) as stable,
        serving(candidate, tmp_path / "b", tag=CANARY, release="v1.1.0", **shared) as canary,
        serving(candidate, tmp_path / "c", tag=CANARY, release="v1.1.0", **shared) as twin,
    ):
        assert serves(stable) == (STABLE, digest_of(bundle))
        assert serves(canary) == (CANARY, digest_of(candidate))
        with canary.client() as client:
            answer = client.post("/replace_ml_model", json={"tag": OTHER})
            assert answer.status_code == 200, answer.text
            until(lambda: serves(twin) == (OTHER, digest_of(other)))
            assert serves(stable) == (STABLE, digest_of(bundle))
            assert set(api.configmaps["wanted-model"]["data"]) == {"v1.1.0"}
            assert client.post("/rollback_ml_model").status_code == 200
            until(lambda: serves(twin) == (CANARY, digest_of(candidate)))


def test_a_restarted_release_serves_its_baked_in_model_without_the_registry(
    bundle: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        with serving(bundle, tmp_path, tag=STABLE, repository=tmp_path / "nowhere") as server:
            assert serves(server) == (STABLE, digest_of(bundle))


@pytest.mark.parametrize(
    ("name", "value"),
    [("SERVICE_TAG", "$(id)"), ("SERVICE_TAG", ""), ("SERVICE_RELEASE", "a/b")],
)
def test_an_invalid_release_label_is_refused_at_start(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UnsafeSettings, match=name):
        read_settings()
