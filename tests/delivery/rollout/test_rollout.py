"""Rollouts: real manifests, a stand-in for the cluster; the real service where it matters."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from delivery.errors import RolloutError
from delivery.rollout import render
from delivery.rollout.manifests import parse_image
from tests.e2e.pods import read_pod
from tests.fakes.http import Request, answering
from tests.make.commands import run_command
from tests.make.injection_strings import HOSTILE
from tests.make.manifests import copy_manifests
from tests.make.ports import free_port
from tests.make.processes import until
from tests.make.rollouts import (
    ARGO,
    NEEDS_KUSTOMIZE,
    PRODUCTION,
    STAGING,
    Project,
    image,
    kill_after_apply,
)

pytestmark = NEEDS_KUSTOMIZE


class Served(NamedTuple):
    """A stage whose real service serves v1.1.0, which each test leaves so, and its first rollout.

    Every rollout of a stage calls kubectl with the same context.
    """

    project: Project
    done: subprocess.CompletedProcess[str]
    result: Any
    verbs: list[str]


@pytest.fixture
def project(tmp_path: Path, bundles: dict[int, Path]) -> Iterator[Project]:
    found = Project(tmp_path, bundles)
    try:
        yield found
    finally:
        found.cluster.stop()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, bundles: dict[int, Path]) -> Iterator[Served]:
    found = Project(tmp_path_factory.mktemp("served"), bundles, real=True)
    found.variables["KUBE_CONTEXT"] = "group/project:agent"
    try:
        done = found.roll_out(1, "--bundle", str(bundles[1]))
        yield Served(found, done, found.result(), found.verbs())
    finally:
        found.cluster.stop()


def test_a_version_is_rolled_out_to_a_stage(served: Served) -> None:
    project, done, result, verbs = served
    assert done.returncode == 0, done.stderr
    assert "ok    version: landcover@v1.1.0" in done.stdout
    assert "ok    golden: 2 chips" in done.stdout
    assert project.serving() == "landcover@v1.1.0"
    assert result["result"] == "rolled-out" and result["before"] is None
    assert result["serving"] == result["version"] == "landcover@v1.1.0"
    assert result["strategy"] == "rolling" and result["image"] == image(1)
    assert result["seconds"] > 0
    assert verbs.index("apply") < verbs.index("rollout status deployment/landcover")
    assert "rollout undo deployment/landcover" not in verbs


def test_the_pods_know_their_release_and_run_the_image_by_its_digest(served: Served) -> None:
    project = served.project
    applied = next(call["stdin"] for call in project.cluster.calls() if call["argv"][0] == "apply")
    documents = {item["kind"]: item for item in yaml.safe_load_all(applied)}
    container = documents["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    values = {item["name"]: item.get("value") for item in container["env"]}
    assert container["image"] == image(1)
    assert values["SERVICE_RELEASE"] == "landcover-v1.1.0"
    assert values["SERVICE_TAG"] == "landcover@v1.1.0"
    assert "Namespace" not in documents  # the administrator's


def test_rolling_out_the_serving_version_changes_nothing(project: Project) -> None:
    assert project.roll_out(1).returncode == 0
    pod = read_pod(project.cluster.folder / "stages" / STAGING)
    before = len(project.cluster.calls())
    again = project.roll_out(1)
    assert again.returncode == 0 and "serves landcover@v1.1.0 already" in again.stdout
    assert project.result()["result"] == "unchanged"
    assert read_pod(project.cluster.folder / "stages" / STAGING) == pod
    assert not {"apply", "patch", "rollout"} & {
        item.split()[0] for item in project.verbs()[before:]
    }


def test_changed_settings_are_applied_to_the_same_version(project: Project) -> None:
    assert project.roll_out(1).returncode == 0
    settings = project.folder / "k8s" / "overlays" / "staging" / "settings.env"
    settings.write_text(settings.read_text() + "SERVICE_QUEUE=32\n")
    assert project.roll_out(1).returncode == 0
    assert project.result()["result"] == "rolled-out"
    assert project.verbs().count("apply") == 2


def test_a_version_that_never_gets_ready_is_rolled_back(
    served: Served,
) -> None:
    project = served.project
    project.cluster.configure(ready_within={image(3): 4})
    bad = project.roll_out(3)
    assert bad.returncode == 1
    assert "error: staging does not serve landcover@v1.3.0" in bad.stderr
    assert "landcover@v1.1.0 serves again" in bad.stderr
    assert "CrashLoopBackOff" in bad.stderr and "Traceback" not in bad.stderr
    assert project.serving() == "landcover@v1.1.0"
    result = project.result()
    assert result["result"] == "rolled-back" and result["serving"] == "landcover@v1.1.0"
    assert "timed out" in result["reason"]


def test_a_version_that_fails_its_smoke_test_is_undone(project: Project) -> None:
    assert project.roll_out(1).returncode == 0
    wrong = project.roll_out(2, "--bundle", str(project.bundles[4]), "--limit=1")
    assert wrong.returncode == 1 and "landcover@v1.2.0 is the model" in wrong.stderr
    assert project.serving() == "landcover@v1.1.0"
    good = project.roll_out(2, "--bundle", str(project.bundles[2]))
    assert good.returncode == 0 and project.result()["before"] == "landcover@v1.1.0"
    assert project.serving() == "landcover@v1.2.0"


def test_a_failed_first_version_is_reported_without_an_undo(project: Project) -> None:
    del project.cluster.config["pod"]
    project.cluster.configure(images={})
    done = project.roll_out(1)
    assert done.returncode == 1 and "there is nothing to go back to" in done.stderr
    assert "ErrImagePull" in done.stderr
    assert project.result()["result"] == "failed"
    assert not any("undo" in item for item in project.verbs())


def test_objects_that_kubectl_refuses_change_nothing_and_are_reported(project: Project) -> None:
    assert project.roll_out(1).returncode == 0
    shim = project.cluster.bin / "kubectl"
    refuse = 'if [ "$1$2" = apply--filename=- ]; then echo "error: Deployment is invalid" >&2; exit 1; fi\n'  # noqa: E501
    shim.write_text(shim.read_text().replace("\n", f"\n{refuse}", 1))
    done = project.roll_out(2)  # refused by what came between the check and the apply
    assert done.returncode == 1 and "Deployment is invalid" in done.stderr
    assert "nothing was changed, landcover@v1.1.0 still serves" in done.stderr
    assert project.serving() == "landcover@v1.1.0"
    assert not any("undo" in item for item in project.verbs())


def test_a_killed_rollout_converges_when_it_runs_again(project: Project) -> None:
    assert project.roll_out(1).returncode == 0
    kill_after_apply(project, 2)
    assert project.result()["result"] == "unfinished"
    again = project.roll_out(2)
    assert again.returncode == 0, again.stderr
    assert project.serving() == "landcover@v1.2.0"
    assert project.result()["result"] in ("rolled-out", "unchanged")


def test_after_a_killed_rollout_a_failing_one_restores_the_last_good_version(
    project: Project,
) -> None:
    """A plain undo would restore the revision before, which never passed a smoke test."""
    assert project.roll_out(1).returncode == 0
    project.cluster.configure(images={image(1): str(project.bundles[1])})
    kill_after_apply(project, 2)
    failed = project.roll_out(4)
    assert failed.returncode == 1 and "landcover@v1.1.0 serves again" in failed.stderr
    assert project.serving() == "landcover@v1.1.0"


def test_an_older_version_is_refused_unless_it_is_allowed(project: Project) -> None:
    assert project.roll_out(2).returncode == 0
    older = project.roll_out(1)
    assert older.returncode == 1
    assert "landcover@v1.1.0 is outdated: staging runs landcover@v1.2.0" in older.stderr
    assert project.serving() == "landcover@v1.2.0" and project.verbs().count("apply") == 1
    back = project.roll_out(1, "--allow-older")
    assert back.returncode == 0 and project.serving() == "landcover@v1.1.0"


def test_a_rollout_clears_the_swap_of_its_release(served: Served) -> None:
    project = served.project
    state = project.cluster.folder / "stages" / STAGING / "releases" / "landcover-v1.1.0"
    sha256 = json.loads((project.bundles[2] / "model.json").read_bytes())["sha256"]
    shutil.copytree(project.bundles[2], state / "bundles" / sha256)
    wanted = {"tag": "landcover@v9.0.0", "sha256": sha256, "version": 1}
    wanted |= {"previous_tag": None, "previous_sha256": None}
    wanted |= {"changed": datetime.now(UTC).isoformat()}
    (state / "wanted.json").write_text(json.dumps(wanted))
    until(lambda: project.serving() == "landcover@v9.0.0")
    done = project.roll_out(1)
    assert done.returncode == 0, done.stderr
    assert "should serve landcover@v1.1.0 and does not" in done.stdout
    assert project.serving() == "landcover@v1.1.0" and not (state / "wanted.json").exists()


def test_refused_credentials_do_not_roll_a_running_version_back(served: Served) -> None:
    project = served.project
    before = len(project.verbs())
    done = project.roll_out(1, SMOKE_TOKEN="cvy_of_somebody_else")
    assert done.returncode == 1 and "SMOKE_TOKEN must be a key" in done.stderr
    assert project.serving() == "landcover@v1.1.0"
    assert not any("undo" in item for item in project.verbs()[before:])


def test_the_objects_are_written_without_a_cluster(project: Project) -> None:
    def written(what: str, *options: str) -> dict[str, Any]:
        words = [what, *options]
        done = run_command(render.main, words, project.folder, project.environment())
        path = f"artifacts/manifests/{what}.yaml"
        assert done.returncode == 0 and f"kubectl apply --filename {path}" in done.stdout
        items = yaml.safe_load_all((project.folder / path).read_text(encoding="utf-8"))
        return {item["kind"]: item for item in items}

    version = ["--version=v1.1.0", f"--image={image(1)}"]
    staging = written("staging", *version)
    assert {"Deployment", "ServiceMonitor"} <= staging.keys() and "Rollout" not in staging
    assert "Deployment" in written("production", *version)
    project.choose("canary")
    assert {"Rollout", "AnalysisTemplate"} <= written("production", *version).keys()
    assert written("setup")["ClusterRole"]["metadata"]["name"] == "landcover-deployer"
    assert written("review")["Namespace"]["metadata"]["name"] == "landcover-review"
    assert {item.split()[0] for item in project.verbs()} == {"kustomize"}


def test_the_objects_of_no_version_or_model_are_refused(project: Project) -> None:
    def refused(*words: str) -> str:
        found = run_command(render.main, [*words], project.folder, project.environment())
        return found.stderr

    assert "version: missing: VERSION=landcover@v1.2.0" in refused("staging")
    assert "version: 'x' is not a version" in refused("staging", "--version=x")
    assert "is not named by its digest" in refused("staging", "--version=v1.0.0", "--image=x")
    assert "version: setup has no image: leave it out" in refused("setup", "--version=v1.0.0")
    (project.folder / "params.yaml").unlink()
    assert "params.yaml: it is missing or has no model.name" in refused("setup")
    assert not (project.folder / "artifacts").exists()


def test_another_model_is_rolled_out_under_its_own_name(project: Project) -> None:
    (project.folder / "params.yaml").write_text("model: {name: crops}\n")
    assert project.roll_out(1).returncode == 1  # the stand-in knows no pod of this namespace
    called = [call["argv"] for call in project.cluster.calls() if call["argv"][0] != "kustomize"]
    assert all("--namespace=crops-staging" in words for words in called)
    assert ["get", "deployment/crops"] in [words[:2] for words in called]


def test_every_call_names_context_and_namespace(served: Served) -> None:
    project = served.project
    for call in project.cluster.calls():
        if call["argv"][0] != "kustomize":
            assert "--context=group/project:agent" in call["argv"]
            assert f"--namespace={STAGING}" in call["argv"]


def test_kinds_that_the_cluster_does_not_know_are_left_out(project: Project) -> None:
    done = project.roll_out(1)
    assert "left out: ServiceMonitor" in done.stdout
    project.cluster.configure(kinds=["servicemonitors.monitoring.coreos.com"])
    assert "left out" not in project.roll_out(2).stdout
    applied = [call["stdin"] for call in project.cluster.calls() if call["argv"][0] == "apply"]
    applied = applied[1::2]  # without those that were tried in vain
    assert ["ServiceMonitor" in text for text in applied] == [False, True]


@pytest.mark.parametrize(
    ("kind", "plural", "components"),
    [
        ("HTTPRoute", "httproutes.gateway.networking.k8s.io", ("gateway", ())),
        (
            "ExternalSecret",
            "externalsecrets.external-secrets.io",
            ("ingress", ("external-secrets",)),
        ),
    ],
)
def test_a_stage_that_needs_a_kind_which_the_cluster_does_not_know_is_left_alone(
    project: Project, kind: str, plural: str, components: tuple[str, tuple[str, ...]]
) -> None:
    copy_manifests(project.folder, *components)
    done = project.roll_out(1)
    assert done.returncode == 1 and f"{kind}: the cluster does not know this kind" in done.stderr
    assert "apply" not in project.verbs()
    project.cluster.configure(kinds=[plural])
    assert project.roll_out(1).returncode == 0


@contextmanager
def prometheus(values: list[str]) -> Iterator[tuple[str, list[str]]]:
    """A stand-in for the query API of Prometheus: one series a value; address and queries."""
    queries = []

    def answer(request: Request) -> None:
        queries.append(parse_qs(urlsplit(request.path).query)["query"][0])
        result = [{"metric": {}, "value": [1.0, value]} for value in values]
        data = {"resultType": "vector", "result": result}
        request.reply(200, json.dumps({"status": "success", "data": data}).encode())

    with answering(answer) as url:
        yield url, queries


def test_a_rollout_tells_whether_prometheus_scrapes_the_stage(project: Project) -> None:
    assert "scraping" not in project.roll_out(1).stdout  # nothing serves yet
    answers = {"1": "scraping: 2 of 2 pods", "0": "reaches no pod of landcover-staging"}
    for value, text in answers.items():
        with prometheus([value, value]) as (url, queries):
            assert text in project.roll_out(1, PROMETHEUS_URL=url).stdout
        assert queries == ['up{job="landcover",namespace="landcover-staging"}']
    with prometheus([]) as (url, _):
        found = project.roll_out(1, PROMETHEUS_URL=url).stdout
        assert "warning: Prometheus does not scrape landcover-staging" in found
    unknown = {
        "": "PROMETHEUS_URL is not set",
        f"http://me:secret@127.0.0.1:{free_port()}": "no answer from PROMETHEUS_URL (ConnectError)",
        "prometheus:9090": "no answer from PROMETHEUS_URL",
        f"http://127.0.0.1:{project.ports[STAGING]}": "PROMETHEUS_URL answers 404",
    }
    for url, text in unknown.items():
        done = project.roll_out(1, PROMETHEUS_URL=url)
        assert done.returncode == 0 and f"scraping: not checked, {text}" in done.stdout, url
        assert "secret" not in done.stdout + done.stderr


def test_a_canary_that_no_one_measures_is_refused_beforehand(project: Project) -> None:
    project.choose("canary")
    with prometheus([]) as (url, _):
        assert project.roll_out(1, stage="production", PROMETHEUS_URL=url).returncode == 0  # first
        applied = project.verbs().count("apply")
        done = project.roll_out(2, stage="production", PROMETHEUS_URL=url)
        assert (
            done.returncode == 1
            and "Prometheus does not scrape landcover-production" in done.stderr
        )
        assert "without data no canary passes: nothing was changed" in done.stderr
        assert project.verbs().count("apply") == applied
        assert "already" in project.roll_out(1, stage="production", PROMETHEUS_URL=url).stdout
    with prometheus(["0", "0"]) as (url, _):
        back = project.roll_out(2, "--allow-older", stage="production", PROMETHEUS_URL=url)
        assert back.returncode == 0 and "warning: Prometheus reaches no pod" in back.stdout


def test_production_is_a_canary_where_its_overlay_says_so(project: Project) -> None:
    project.choose("canary")
    done = project.roll_out(1, stage="production")
    assert done.returncode == 0, done.stderr
    assert project.result("production")["strategy"] == "argo"
    applied = next(call["stdin"] for call in project.cluster.calls() if call["argv"][0] == "apply")
    kinds = {item["kind"] for item in yaml.safe_load_all(applied)}
    assert {"Rollout", "AnalysisTemplate"} <= kinds and "Deployment" not in kinds
    assert "already" in project.roll_out(1, stage="production").stdout
    assert project.roll_out(1).returncode == 0
    assert project.result()["strategy"] == "rolling"


def test_argo_rollouts_of_another_team_breaks_no_plain_rollout_and_needs_no_plugin(
    project: Project,
) -> None:
    project.cluster.configure(kinds=[ARGO])
    assert project.roll_out(1, stage="production").returncode == 0
    assert project.result("production")["strategy"] == "rolling"
    assert not any(item.startswith("argo") for item in project.verbs())


def test_a_canary_without_argo_rollouts_is_refused_before_anything_changes(
    project: Project,
) -> None:
    project.choose("canary")
    project.cluster.configure(kinds=[])
    done = project.roll_out(1, stage="production")
    assert done.returncode == 1 and "Rollout: the cluster does not know this kind" in done.stderr
    assert "apply" not in project.verbs()


def test_pods_of_a_rollout_that_were_swapped_are_made_anew(project: Project) -> None:
    project.choose("canary")
    assert project.roll_out(1, stage="production").returncode == 0
    state = project.cluster.folder / "stages" / PRODUCTION / "releases" / "landcover-v1.1.0"
    state.mkdir(parents=True, exist_ok=True)
    (state / "wanted.json").write_text('{"tag": "landcover@v9.0.0"}')
    settings = project.folder / "k8s" / "overlays" / "production" / "values.yaml"
    settings.write_text(settings.read_text().replace("model-name.example", "other.example"))
    assert project.roll_out(1, stage="production").returncode == 0
    (restart,) = patches(project)
    assert restart[-1].startswith('--patch={"spec": {"restartAt": "2')
    assert not (state / "wanted.json").exists()


def test_a_bad_canary_is_aborted_and_the_stable_version_serves(project: Project) -> None:
    project.choose("canary")
    assert project.roll_out(1, stage="production").returncode == 0
    project.cluster.configure(canary="fails")
    bad = project.roll_out(2, stage="production")
    assert bad.returncode == 1 and 'Metric "confidence"' in bad.stderr
    assert "rolled back, landcover@v1.1.0 serves again" in bad.stderr
    assert project.serving("production") == "landcover@v1.1.0"
    abort, undo = patches(project)
    assert {"--subresource=status", "--type=merge"} <= set(abort)
    assert "--type=json" in undo and '"rollouts-pod-template-hash": ' not in undo[-1]
    project.cluster.configure(canary="")
    assert project.roll_out(2, stage="production").returncode == 0
    assert project.serving("production") == "landcover@v1.2.0"


def patches(project: Project) -> list[list[str]]:
    """Patches of the Rollout: the options of each, and the change."""
    found = [call["argv"][1:] for call in project.cluster.calls() if call["argv"][0] == "patch"]
    options = [[it for it in words if it.startswith("--")] for words in found if ARGO in words[0]]
    return [sorted(words, key=lambda word: word.startswith("--patch=")) for words in options]


def test_a_canary_that_is_not_done_in_time_is_aborted(project: Project) -> None:
    project.choose("canary")
    assert project.roll_out(1, stage="production").returncode == 0
    project.cluster.configure(canary="waits")
    late = project.roll_out(2, "--timeout=0.1", stage="production")
    assert late.returncode == 1 and "not done after 0.1 s: Paused: CanaryPauseStep" in late.stderr
    assert "landcover@v1.1.0 serves again" in late.stderr
    assert len(patches(project)) == 2


def test_the_next_job_finishes_a_canary_whose_job_was_killed(project: Project) -> None:
    project.choose("canary")
    assert project.roll_out(1, stage="production").returncode == 0
    project.cluster.configure(canary="waits")
    kill_after_apply(project, 2, "production")
    assert project.result("production")["result"] == "unfinished"
    project.cluster.configure(canary="")
    again = project.roll_out(2, stage="production")
    assert again.returncode == 0, again.stderr
    assert project.serving("production") == "landcover@v1.2.0"
    assert patches(project) == []


def test_after_a_killed_canary_a_failing_one_restores_the_last_good_version(
    project: Project,
) -> None:
    project.choose("canary")
    assert project.roll_out(1, stage="production").returncode == 0
    project.cluster.configure(canary="waits")
    kill_after_apply(project, 2, "production")
    project.cluster.configure(canary="fails")
    failed = project.roll_out(4, stage="production")
    assert failed.returncode == 1 and "landcover@v1.1.0 serves again" in failed.stderr
    assert project.serving("production") == "landcover@v1.1.0"


def test_a_stage_that_something_else_runs_than_its_overlay_says_is_left_alone(
    project: Project,
) -> None:
    assert project.roll_out(1, stage="production").returncode == 0
    project.choose("canary")
    done = project.roll_out(2, stage="production")
    assert done.returncode == 1
    assert "production is run by a Deployment, and its overlay has a Rollout" in done.stderr
    assert "`make argo-enter STAGE=production`" in done.stderr
    assert project.verbs().count("apply") == 1
    assert project.serving("production") == "landcover@v1.1.0"


def test_invalid_arguments_are_refused_before_anything_changes(project: Project) -> None:
    cases = [
        ("--image=registry.example.com/landcover:v1.0.0", "not named by its digest"),
        ("--image=$(touch pwned)@sha256:" + "0" * 64, "not named by its digest"),
        ("--version=landcover@v1.0.0;touch pwned", "version:"),
        ("--version=--help@v1.0.0", "version:"),
        ("--version=v1.2.0", "is not a version: write landcover@v1.2.0"),
        ("--url=ftp://example.com", "url:"),
        ("--url=http://landcover.example.com", "is not encrypted"),
        ("--sha256=abc", "sha256:"),
        ("--bundle=nowhere", "bundle:"),
    ]
    for option, reason in cases:
        done = project.roll_out(1, option)
        assert done.returncode == 1 and reason in done.stderr, option
        assert done.stderr.count("error: ") == 1, option
    assert project.cluster.calls() == [] and not list(project.folder.rglob("pwned"))


def test_hostile_images_are_refused() -> None:
    for text in HOSTILE:
        for whole in (text, f"{text}@sha256:{'0' * 64}", f"registry/name@sha256:{'0' * 64}{text}x"):
            with pytest.raises(RolloutError, match="image: "):
                parse_image(whole)


def test_plain_images_are_accepted() -> None:
    gitlab = "registry.gitlab.com/group/sub_group/land--cover/serve"
    for text in ("landcover", "localhost:5000/landcover", gitlab):
        assert parse_image(f"{text}@sha256:{'ab' * 32}")


def test_without_kubectl_the_error_says_how_to_install_it(project: Project) -> None:
    process = project.start(1, PATH=str(project.folder))
    _, errors = process.communicate()
    assert process.returncode == 1
    assert errors.startswith("error: kubectl: not found") and "Traceback" not in errors
