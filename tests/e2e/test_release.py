"""The story, second part: a merge releases, by version, image, staging, production and tags."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import ROOT
from tests.e2e import containers
from tests.e2e.world import CLASSES, LIMIT, MAIN_JOBS, NAME, TRAINING, World
from tests.fakes.cluster import Cluster
from tests.make import pushgateway
from tests.make.server import serving

pytestmark = [pytest.mark.step, containers.needed]
STAGES = ("staging", "production")
V1, V2, V3, V4 = (f"{NAME}@v1.{minor}.0" for minor in range(4))
ALL_PASS = dict.fromkeys(MAIN_JOBS, True)
CHECKS = ("lint", "test", "secrets")
WITH_PAGES = (*MAIN_JOBS, "publish")


@pytest.fixture(scope="module")
def cluster(world: World) -> Iterator[Cluster]:
    """Two stages, empty; their pods are the real images."""
    containers.warm()
    found = Cluster(world.folder / "cluster")
    keys = json.dumps({containers.HASH: ["predict", "view", "deploy"]})
    ports = {stage: containers.free_port() for stage in STAGES}
    found.configure(
        pod=[str(Path(containers.__file__).parent / "pod.sh")],
        stages={
            f"{NAME}-{stage}": {"port": port, "settings": {"SERVICE_API_KEYS": keys}}
            for stage, port in ports.items()
        },
    )
    world.path = (str(found.bin),)
    with containers.registry(world.folder / "registry") as address:
        world.variables |= {
            f"{stage.upper()}_URL": f"http://127.0.0.1:{port}" for stage, port in ports.items()
        }
        world.variables |= {
            "CI_REGISTRY_IMAGE": f"{address}/team",
            "IMAGE": f"{address}/team/service",
            "IMAGE_BUILD_ARGS": containers.BUILD_ARGS,
            "BUILDAH_ISOLATION": "chroot",
            "STORAGE_DRIVER": "overlay",
            "SMOKE_TOKEN": containers.KEY,
        }
        yield found
        found.stop()


def serves(world: World, stage: str) -> str:
    """The tag that a stage says it serves."""
    found: Any = httpx.get(world.variables[f"{stage.upper()}_URL"] + "/version", timeout=60).json()
    return str(found["model"]["tag"])


def release(world: World, branch: str, width: int) -> str:
    """Open a merge request, let its pipeline train, and merge it; the commit of main."""
    number = world.propose(branch, {"model": {"width": width}}, f"Width {width}")
    pipeline = world.request_pipeline(number, *TRAINING)
    assert pipeline.jobs == {"trained": True}, pipeline.log
    return world.merge(number)


def stage_tags(world: World, stage: str) -> set[str]:
    return {tag for tag in world.tags() if tag.startswith(f"{NAME}#{stage}")}


def test_the_first_model_of_main_goes_to_production(world: World, cluster: Cluster) -> None:
    pipeline = world.main_pipeline("main", *CHECKS, *MAIN_JOBS)
    assert pipeline.jobs == ALL_PASS | dict.fromkeys(CHECKS, True), pipeline.log
    assert V1 in world.tags()
    assert [len(stage_tags(world, stage)) for stage in STAGES] == [1, 1]
    assert {serves(world, stage) for stage in STAGES} == {V1}


@pushgateway.needed
def test_the_figures_of_main_reach_a_pushgateway(world: World, cluster: Cluster) -> None:
    with pushgateway.running() as gateway:
        pipeline = world.main_pipeline("main", "figures", PUSHGATEWAY_URL=gateway.url)
        assert pipeline.jobs == {"figures": True}, pipeline.log
        assert list(gateway.series("conveyor_pipeline_seconds")) == [(("pipeline", "main"),)]
        ends = gateway.series("conveyor_token_expires_timestamp_seconds")
        assert set(ends) == {(("token", name),) for name in ("BOT_TOKEN", "RELEASE_TOKEN")}
    assert "not pushed" not in pipeline.log


def test_a_model_altered_in_the_remote_is_not_released(world: World, cluster: Cluster) -> None:
    release(world, "wider", 5)
    before = world.tags()
    path = newest(world.remote, b"onnx")
    content = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(content[:-1] + bytes((content[-1] ^ 1,)))
    pipeline = world.main_pipeline()
    assert pipeline.jobs == {"verify": False}, pipeline.log
    assert "were altered in the DVC remote" in pipeline.log
    assert world.tags() == before
    path.write_bytes(content)


def newest(remote: Path, mark: bytes) -> Path:
    """The newest object with these bytes."""
    objects = [path for path in remote.rglob("*") if path.is_file()]
    return max(
        (path for path in objects if mark in path.read_bytes()),
        key=lambda path: path.stat().st_mtime_ns,
    )


def test_a_merge_trains_nothing_and_releases_what_was_trained(
    world: World, cluster: Cluster
) -> None:
    pipeline = world.main_pipeline("main", *WITH_PAGES)
    assert pipeline.jobs == dict.fromkeys(WITH_PAGES, True), pipeline.log
    assert "Running stage" not in pipeline.log
    assert {serves(world, stage) for stage in STAGES} == {V2}
    assert len(stage_tags(world, "production")) == 2
    for tag in stage_tags(world, "production"):
        assert world.options_of(f"refs/tags/{tag}") == ["|ci.skip"]


def test_gitlabs_pages_show_the_version_and_its_release(world: World, cluster: Cluster) -> None:
    (version,) = world.api.model_versions
    assert (version["name"], version["aliases"]) == (NAME, ["1.1.0"])
    assert "the gate is open" in version["description"]
    names = {name for _, name in world.api.model_files}
    assert names == {"model.onnx", "model.json", "model.stac.json"}
    (release,) = world.api.releases
    assert release["tag_name"] == V2 and "@sha256:" in release["description"]
    assert [link["name"] for link in release["assets"]["links"]] == ["Model version", "Image"]


def test_the_site_shows_the_versions_and_the_plots(world: World, cluster: Cluster) -> None:
    if not (ROOT / ".venv-checks").exists():
        pytest.skip("mkdocs is not installed: make setup-e2e")
    programs = world.dev / ".venv-checks"
    programs.symlink_to(ROOT / ".venv-checks")
    world.git("fetch", "--quiet", "--tags", "origin")
    world.sh("make", "pages", "NO_SETUP=1")
    programs.unlink()
    assert V2 in (world.dev / "public" / "experiments.html").read_text(encoding="utf-8")
    assert CLASSES[0] in (world.dev / "public" / "plots" / "index.html").read_text("utf-8")


def test_the_image_carries_the_digest_of_the_bundle(world: World, cluster: Cluster) -> None:
    name = f"docker://{world.variables['IMAGE']}:v1.1.0"
    found = json.loads(containers.call("skopeo", "inspect", "--tls-verify=false", name))
    version = httpx.get(world.variables["PRODUCTION_URL"] + "/version").json()["model"]
    assert found["Labels"]["io.conveyor.bundle.sha256"] == version["sha256"]
    applied = [call["stdin"] for call in cluster.calls() if call["argv"][0] == "apply"]
    assert f"{world.variables['IMAGE']}@{found['Digest']}" in applied[-1]


def test_a_service_elsewhere_swaps_to_the_new_tag_without_a_restart(
    world: World, cluster: Cluster, tmp_path: Path
) -> None:
    world.sh("dvc", "get", "--quiet", "--rev", V1, "--out", str(tmp_path / "model"), ".", "model")
    version = httpx.get(world.variables["PRODUCTION_URL"] + "/version").json()["model"]
    with serving(tmp_path / "model", tmp_path, repository=world.origin) as server:
        pids = set(server.workers())
        with server.client() as client:
            answer = client.post("/replace_ml_model", json={"tag": V2})
            assert answer.status_code == 200, answer.text
            now = client.get("/version").json()["model"]
        assert (now["tag"], now["sha256"]) == (V2, version["sha256"])
        assert set(server.workers()) == pids


def test_a_typo_in_the_readme_releases_nothing(world: World, cluster: Cluster) -> None:
    before, applied = world.tags(), len(cluster.calls())
    world.git("switch", "--quiet", "main")
    (world.dev / "README.md").write_text("Without the typo\n", encoding="utf-8")
    world.commit("Mend a typo")
    world.git("push", "--quiet", "origin", "main")
    pipeline = world.main_pipeline("main", *WITH_PAGES)
    assert pipeline.jobs == dict.fromkeys(WITH_PAGES, True), pipeline.log
    assert world.tags() == before
    assert "is in the registry" in pipeline.log, "the image was built again"
    assert (len(world.api.model_versions), len(world.api.releases)) == (1, 1)
    later = [call["argv"][0] for call in cluster.calls()[applied:]]
    assert "apply" not in later, "what serves already was touched"


def test_a_bad_canary_is_rolled_back_and_the_tag_of_the_stage_stays(
    world: World, cluster: Cluster
) -> None:
    release(world, "broken-in-production", 6)
    cluster.config["stages"][f"{NAME}-production"]["settings"]["BROKEN"] = V3
    before = stage_tags(world, "production")
    pipeline = world.main_pipeline()
    assert pipeline.jobs == ALL_PASS | {"production": False}, pipeline.log
    assert serves(world, "staging") == V3
    assert serves(world, "production") == V2
    assert stage_tags(world, "production") == before


def test_an_older_pipeline_that_finishes_last_changes_nothing(
    world: World, cluster: Cluster
) -> None:
    pipeline = world.main_pipeline(V2, "register", "build-image", "staging")
    assert pipeline.jobs["staging"], pipeline.log
    assert f"left out: staging does not take {V2}: it is outdated" in pipeline.log
    assert serves(world, "staging") == V3


def test_the_next_pipeline_finishes_a_killed_one(world: World, cluster: Cluster) -> None:
    release(world, "interrupted", 7)
    facts = {"CI_PIPELINE_SOURCE": "push", "RELEASE_TOKEN": world.token}
    line, folder = world.prepare("main", facts)
    with subprocess.Popen(
        [*line, *MAIN_JOBS],
        cwd=folder,
        env=world.environment(),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + LIMIT
        while V4 not in world.tags():  # registered, and no more
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        subprocess.run(["pkill", "-KILL", "--session", str(process.pid)], check=True)
        process.send_signal(signal.SIGKILL)
    pipeline = world.main_pipeline()
    assert pipeline.jobs == ALL_PASS, pipeline.log
    assert {serves(world, stage) for stage in STAGES} == {V4}
    assert f"{NAME}@v1.4.0" not in world.tags()


def test_a_rollback_tag_restores_the_previous_version(world: World, cluster: Cluster) -> None:
    """It goes to where main says that production is today: the tag's commit knows an older host."""
    move_production(world, "landcover.moved.example.org")
    before = stage_tags(world, "production")
    world.sh("make", "rollback", "STAGE=production", "NO_SETUP=1")
    (tag,) = stage_tags(world, "production") - before
    assert world.options_of(f"refs/tags/{tag}") == [""], "the tag has to start its pipeline"
    facts = {"CI_COMMIT_TAG": tag, "CI_COMMIT_BRANCH": "", "RELEASE_TOKEN": world.token}
    pipeline = world.pipeline(tag, ("production",), facts)
    assert pipeline.jobs == {"production": True}, pipeline.log
    assert serves(world, "production") == V2
    applied = [call["stdin"] for call in cluster.calls() if call["argv"][0] == "apply"]
    assert "landcover.moved.example.org" in applied[-1]


def test_the_next_merge_with_the_same_model_does_not_undo_the_rollback(
    world: World, cluster: Cluster
) -> None:
    before = stage_tags(world, "production")
    pipeline = world.main_pipeline()
    assert pipeline.jobs == ALL_PASS, pipeline.log
    assert f"left out: production does not take {V4}: production was rolled back" in pipeline.log
    assert (serves(world, "staging"), serves(world, "production")) == (V4, V2)
    assert stage_tags(world, "production") == before


def move_production(world: World, host: str) -> None:
    """Change the host of production on main, after the version that is rolled back to."""
    world.git("fetch", "--quiet", "--tags", "origin")
    world.git("switch", "--quiet", "--force-create", "main", "origin/main")
    values = world.dev / "k8s/overlays/production/values.yaml"
    text = values.read_text(encoding="utf-8")
    values.write_text(text.replace("model-name.example.com", host), encoding="utf-8")
    world.commit("Move production")
    world.git("push", "--quiet", "origin", "main")
