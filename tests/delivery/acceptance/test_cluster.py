"""The acceptance on a cluster, against a stand-in; its command lines against the real kubectl."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from delivery.acceptance import cluster as acceptance
from delivery.acceptance import sandbox
from delivery.acceptance.cluster import BAD, GOOD, KEPT_OUT, LET_IN, REPORT
from delivery.acceptance.sandbox import LABEL
from tests.conftest import ROOT
from tests.fakes.throwaway import ThrowawayCluster
from tests.make.bundles import make_bundle
from tests.make.manifests import copy_manifests
from tests.make.processes import until
from tests.make.rollouts import ARGO, NEEDS_KUSTOMIZE, image

pytestmark = NEEDS_KUSTOMIZE

POD = [sys.executable, "-I", str(ROOT / "tests/fakes/pod.py")]
WHOLE = 15
"""Checks of a cluster with everything but Prometheus."""
OF_VERSIONS = 8
"""Those among them that move between versions."""
SOON = ("--minutes=0.02",)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "model", seed=1)


@pytest.fixture
def kind(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ThrowawayCluster]:
    """A cluster with Argo Rollouts, on PATH; the working directory is a project."""
    folder = tmp_path / "project"
    folder.mkdir()
    copy_manifests(folder)
    (folder / "params.yaml").write_text("model: {name: landcover}\n")
    monkeypatch.chdir(folder)
    found = ThrowawayCluster(tmp_path / "cluster")
    found.configure(images={image(1): str(bundle)}, kinds=[ARGO], pod=POD)
    monkeypatch.setenv("PATH", f"{found.bin}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(sandbox, "POLL", 0.01)
    monkeypatch.setattr(sandbox, "AGAIN", 0.05)
    try:
        yield found
    finally:
        found.stop()


@pytest.fixture
def one_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stories that deploy one version, for what comes behind: the whole one tries the others."""
    monkeypatch.setattr(acceptance.Story, "check_versions", lambda self, stage: None)


def words(*options: str) -> list[str]:
    return ["kind-kind", f"--image={image(1)}", *options]


def play(monkeypatch: pytest.MonkeyPatch, *options: str) -> str:
    """Run the command; returns its report."""
    monkeypatch.setattr("sys.argv", ["cluster", *words(*options)])
    acceptance.main()
    return REPORT.read_text(encoding="utf-8")


def failing(monkeypatch: pytest.MonkeyPatch, *options: str) -> dict[str, str]:
    """Run the command on a cluster that does not pass; the checks that fail, with what they saw."""
    with pytest.raises(SystemExit) as ended:
        play(monkeypatch, *options)
    assert ended.value.code == 1
    return rows("❌")


def rows(sign: str) -> dict[str, str]:
    lines = REPORT.read_text(encoding="utf-8").splitlines()
    found = [line.split(" | ") for line in lines if line.startswith(f"| {sign} |")]
    return {name: evidence.removesuffix(" |") for _, name, evidence in found}


def of_others(kind: ThrowawayCluster) -> None:
    """No namespace of a run is left, and all others are."""
    assert kind.namespaces.keys() >= {"default", "kube-system"}
    assert not [name for name, labels in kind.namespaces.items() if LABEL in labels]


def test_a_whole_cluster_passes_and_nothing_is_left(
    kind: ThrowawayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pods are the real service."""
    del kind.config["pod"]
    kind.namespaces["landcover-production"] = {"app.kubernetes.io/name": "landcover"}
    report = play(monkeypatch)
    assert f"# Acceptance on a cluster: all {WHOLE} passed, 1 skipped" in report, report
    assert "Context kind-kind, Kubernetes v1.32.4, 20" in report and "Not checked here" in report
    assert {GOOD, BAD, KEPT_OUT, LET_IN} <= rows("✅").keys()
    assert rows("✅")["nothing is left"] == "the namespaces are gone"
    of_others(kind)
    assert "landcover-production" in kind.namespaces
    assert [path.name for path in REPORT.parent.iterdir()] == [REPORT.name]
    named = {word for call in kind.calls() for word in call["argv"] if "--namespace=" in word}
    ours = re.compile(r"--namespace=(default|conveyor-acceptance-[0-9a-f]{8}(-outside|-canary)?)")
    assert len(named) == 4 and all(map(ours.fullmatch, named))
    assert_real_kubectl_knows([call["argv"] for call in kind.calls()])


def assert_real_kubectl_knows(lines: list[list[str]]) -> None:
    """Each kind of call reaches the place where a cluster would be."""
    here = Path(os.environ["PATH"].split(os.pathsep)[0])
    path = os.pathsep.join(it for it in os.environ["PATH"].split(os.pathsep) if Path(it) != here)
    kubectl = shutil.which("kubectl", path=path)
    if not kubectl:
        return  # kustomize alone renders, and has no such commands
    calls = {
        (line[0], *sorted(word.partition("=")[0] for word in line if word.startswith("-"))): line
        for line in lines
        if line[0] != "kustomize"
    }
    assert {"create", "delete", "port-forward", "logs", "auth"} <= {name for name, *_ in calls}
    document = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n"
    for line in calls.values():
        arguments = [word for word in line if not word.startswith("--context=")]
        done = subprocess.run(
            [kubectl, *arguments, "--server=http://127.0.0.1:9", "--request-timeout=1s"],
            input=document,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "refused" in done.stderr and "unknown" not in done.stderr, (line, done.stderr)


@pytest.mark.usefixtures("one_version")
def test_with_prometheus_the_canary_is_judged_by_its_analysis(
    kind: ThrowawayCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A bad one is one that no one asks: without data none is promoted."""
    login = tmp_path / "config.json"
    login.write_text('{"auths": {}}')
    address = "http://prometheus.monitoring.svc:9090"
    report = play(monkeypatch, f"--prometheus={address}", f"--pull-secret={login}")
    assert f"# Acceptance on a cluster: all {WHOLE - OF_VERSIONS} passed\n" in report, report
    applied = [call["stdin"] for call in kind.calls() if call["argv"][0] == "apply"]
    assert any(address in text and "kind: AnalysisTemplate" in text for text in applied)
    registries = [text for text in applied if ".dockerconfigjson" in text]
    assert len(registries) == 3 and all("name: landcover-registry" in it for it in registries)


@pytest.mark.usefixtures("one_version")
def test_what_a_cluster_lacks_is_skipped_with_the_reason(
    kind: ThrowawayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind.configure(kinds=[])
    kind.enforces = False
    report = play(monkeypatch)
    assert f"all {WHOLE - OF_VERSIONS - 5} passed, 4 skipped" in report
    skipped = rows("➖")
    assert skipped.keys() == {GOOD, BAD, KEPT_OUT, LET_IN}
    assert "install Argo Rollouts" in skipped[GOOD] and "enforces no policies" in skipped[LET_IN]
    of_others(kind)


def test_pods_that_never_start_end_the_story_with_the_cure_and_nothing_is_left(
    kind: ThrowawayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulled = {"containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff"}}}]}
    kind.configure(stuck={image(1): (pulled, {})})
    found = failing(monkeypatch)
    assert found.keys() == {"a version is deployed", "the story could go on"}
    assert "let the nodes pull it" in found["a version is deployed"]
    of_others(kind)


@pytest.mark.usefixtures("one_version")
@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({"phase": "Failed"}, "pod listener: it is Failed, wanted Running"),
        ({"phase": "Pending"}, "pod listener: not Running within 1.2 s: it is Pending"),
    ],
)
def test_a_pod_that_does_not_run_ends_the_story_with_a_reason(
    kind: ThrowawayCluster, monkeypatch: pytest.MonkeyPatch, status: dict[str, str], said: str
) -> None:
    kind.pod_status = status
    assert failing(monkeypatch, *SOON) == {"the story could go on": said}
    of_others(kind)


@pytest.mark.usefixtures("one_version")
def test_what_does_not_hold_is_named(
    kind: ThrowawayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy that lets everybody in, and a namespace that does not go."""
    kind.configure(kinds=[])
    kind.stays = kind.leaks = True
    found = failing(monkeypatch)
    assert found.keys() == {KEPT_OUT, "nothing is left"}
    assert found[KEPT_OUT] == "its connection was opened"
    assert "kubectl describe namespace conveyor-acceptance-" in found["nothing is left"]


def test_after_an_interruption_nothing_is_left(kind: ThrowawayCluster) -> None:
    kind.pod_status = {"phase": "Pending"}  # the story waits for it, and cannot end before
    for number in (signal.SIGINT, signal.SIGTERM):
        before = len(kind.calls())
        process = subprocess.Popen(
            [sys.executable, "-m", "delivery.acceptance.cluster", *words()],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        until(lambda: ["rollout"] in [it["argv"][:1] for it in kind.calls()[before:]])  # noqa: B023
        process.send_signal(number)
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == 130, printed
        assert "Traceback" not in printed
        assert "it was interrupted" in rows("❌")["the story came to its end"]
        assert "nothing is left" in rows("✅")
        of_others(kind)


def test_a_namespace_that_it_has_not_made_is_never_touched(
    kind: ThrowawayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda size: "1a2b3c4d")
    name = "conveyor-acceptance-1a2b3c4d"
    kind.namespaces[name] = {"team": "other"}
    found = failing(monkeypatch)
    assert f"namespace {name}: it is there, and this run has not made it" in "".join(found.values())
    assert kind.namespaces[name] == {"team": "other"}
    assert not [it for it in kind.calls() if f"--namespace={name}" in it["argv"]]


def test_only_what_a_run_has_left_is_deleted_by_hand(
    kind: ThrowawayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = {LABEL: "1a2b3c4d"}
    kind.namespaces |= {"mine": {"team": "other"}, "one": left, "two": left, "three": {LABEL: "x"}}
    for name, said in (("mine", f"it has no label {LABEL}"), ("nowhere", "it is not there")):
        with pytest.raises(SystemExit, match=f"namespace '{name}': {said}"):
            clean(monkeypatch, name)
    clean(monkeypatch, "one")
    assert kind.namespaces.keys() == {"default", "kube-system", "mine", "three"}


def clean(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("sys.argv", ["cluster", "kind-kind", "--clean", name])
    acceptance.main()


def test_what_can_not_begin_is_one_sentence_and_makes_nothing(
    kind: ThrowawayCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(*line: str) -> str:
        monkeypatch.setattr("sys.argv", ["cluster", *line])
        with pytest.raises(SystemExit) as ended:
            acceptance.main()
        return str(ended.value)

    assert refused("kind-kind").startswith("error: VERSION: not set")
    assert "is not named by its digest" in refused("kind-kind", "--image=landcover:v1")
    missing = refused("kind-kind", f"--image={image(1)}", "--pull-secret=nowhere.json")
    assert missing == "error: PULL_SECRET: nowhere.json: No such file or directory"
    for text in ("auths: {}", "[]", '{"credsStore": "desktop"}'):
        (tmp_path / "config.json").write_text(text)
        line = (f"--image={image(1)}", f"--pull-secret={tmp_path / 'config.json'}")
        assert "it has no `auths`: take the config.json that" in refused("kind-kind", *line)
    said = refused("kind-kind", f"--image={image(1)}", "--prometheus=prom:9090")
    assert said.startswith("error: PROMETHEUS: 'prom:9090' is no address: write http://")
    kind.may_create = False
    assert "its account may not create namespaces" in refused(*words())
    assert "its account may not" in refused("kind-kind", "--version=v1.2.0"), "before the image"
    assert kind.namespaces.keys() == {"default", "kube-system"} and not REPORT.exists()
