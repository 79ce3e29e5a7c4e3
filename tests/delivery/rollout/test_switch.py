"""A stage goes to Argo Rollouts and back: the order of calls, and what serves meanwhile."""

import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from delivery.errors import RolloutError
from delivery.rollout import switch as module
from delivery.rollout import workload
from delivery.rollout.cluster import Cluster
from delivery.rollout.switch import switch
from tests.fakes.workloads import ARGO, RESOURCES, Killed, Workloads
from tests.k8s.conftest import NAME, rendered

PODS = 7  # of a stage that is busy: neither 1 nor the fewest of the autoscaler
OVERLAYS = {
    "enter": ("production", "production-canary"),
    "leave": ("production-canary", "production"),
}
ORDER = {
    "enter": [
        "apply",
        "create",
        "apply",
        f"annotate {ARGO}/{NAME}",
        "apply",
        "delete deployment/{}",
    ],
    "leave": [
        "apply",
        "create",
        "apply",
        f"annotate deployment/{NAME}",
        "apply",
        f"delete {ARGO}/{{}}",
    ],
}
DIRECTIONS = pytest.mark.parametrize("direction", ["enter", "leave"])


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(workload, "PAUSE", 0)
    yield


def stage(monkeypatch: pytest.MonkeyPatch, direction: str, **options: object) -> Workloads:
    """A stage that the old kind of workload runs, and an overlay that has the new one."""
    old, new = OVERLAYS[direction]
    found = Workloads(**options)  # type: ignore[arg-type]
    documents = rendered(old)
    found.apply((), documents)
    for item in found.running.values():
        item["spec"]["replicas"] = PODS
        found._wait(item)
    found.fewest = found.serving()
    monkeypatch.setattr(module, "render", lambda stage, name: rendered(new))
    monkeypatch.setattr(Cluster, "call", lambda self, *words, **rest: found.call(*words, **rest))
    return found


@DIRECTIONS
def test_both_serve_until_the_new_one_has_all_pods(
    monkeypatch: pytest.MonkeyPatch, direction: str
) -> None:
    found = stage(monkeypatch, direction)
    kind = module.KINDS[direction]
    assert switch(direction, "production") == f"production is run by a {kind}"
    assert found.changes() == [words.format(NAME) for words in ORDER[direction]]
    assert found.fewest == PODS
    assert found.running.keys() == {RESOURCES[kind]} and found.scaled == kind
    (now,) = found.running.values()
    assert now["spec"]["replicas"] == PODS
    assert now["metadata"]["annotations"][workload.GOOD] == "6d4cf56db6"  # to be undone to


@DIRECTIONS
def test_no_later_apply_resets_the_number_of_pods(
    monkeypatch: pytest.MonkeyPatch, direction: str
) -> None:
    found = stage(monkeypatch, direction)
    switch(direction, "production")
    found.apply((), rendered(OVERLAYS[direction][1]))
    (now,) = found.running.values()
    assert now["spec"]["replicas"] == PODS


@DIRECTIONS
def test_it_can_be_stopped_after_each_call_and_finished_later(
    monkeypatch: pytest.MonkeyPatch, direction: str
) -> None:
    whole = stage(monkeypatch, direction)
    switch(direction, "production")
    for number in range(len(whole.calls)):
        found = stage(monkeypatch, direction)
        found.kill_at = number
        with pytest.raises(Killed):
            switch(direction, "production")
        found.kill_at = 10**6
        assert switch(direction, "production").startswith("production is run by")
        assert found.running.keys() == whole.running.keys(), number
        assert (found.fewest, found.scaled) == (PODS, whole.scaled), number


@DIRECTIONS
def test_pods_that_the_old_one_got_meanwhile_are_matched(
    monkeypatch: pytest.MonkeyPatch, direction: str
) -> None:
    found = stage(monkeypatch, direction)
    old = next(iter(found.running.values()))
    stop_at_the_autoscaler(found, direction)
    old["spec"]["replicas"] = PODS + 2
    found._wait(old)
    found.fewest = found.serving()
    switch(direction, "production")
    assert found.fewest == found.serving() == PODS + 2


def stop_at_the_autoscaler(found: Workloads, direction: str) -> None:
    """Both are there, and the autoscaler is still that of the old one."""
    calls = found.call

    def until_marked(*words: str, **rest: Any) -> str:
        if "annotate" in {call[0] for call in found.calls}:
            raise Killed
        return calls(*words, **rest)

    found.call = until_marked  # type: ignore[method-assign]
    with pytest.raises(Killed):
        switch(direction, "production")
    found.call = calls  # type: ignore[method-assign]


@DIRECTIONS
def test_a_stage_that_is_there_already_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, direction: str
) -> None:
    found = stage(monkeypatch, direction)
    switch(direction, "production")
    found.calls.clear()
    assert "already" in switch(direction, "production")
    assert found.changes() == []


@DIRECTIONS
def test_what_can_not_be_finished_is_refused_before_anything_changes(
    monkeypatch: pytest.MonkeyPatch, direction: str
) -> None:
    def refused(found: Workloads) -> str:
        with pytest.raises(RolloutError) as error:
            switch(direction, "production")
        assert found.changes() == [] and "nothing was changed" in str(error.value)
        return str(error.value)

    assert "may not delete" in refused(stage(monkeypatch, direction, may_delete=False))
    found = stage(monkeypatch, direction)
    found.refusal = "admission webhook denied the request: no"
    assert "denied the request: no; nothing was changed" in refused(found)
    found = stage(monkeypatch, direction)
    (old,) = found.running.values()
    old["status"] |= {"availableReplicas": PODS - 1, "phase": "Paused"}
    assert "is not at rest" in refused(found)
    found = stage(monkeypatch, direction)
    (old,) = found.running.values()
    old["spec"]["template"]["spec"]["containers"][0]["env"].clear()
    assert "is of another tool" in refused(found)
    found = stage(monkeypatch, direction)
    monkeypatch.setattr(module, "render", lambda stage, name: rendered(OVERLAYS[direction][0]))
    assert f"`make argo-{direction} STAGE=production`" in refused(found)


def test_blue_green_is_left_by_a_canary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Service has no pods but those of the Rollout: there would be none when it is deleted."""
    found = stage(monkeypatch, "leave")
    found.running[ARGO]["spec"]["strategy"] = {"blueGreen": {"activeService": NAME}}
    with pytest.raises(RolloutError, match="component canary in place of blue-green"):
        switch("leave", "production")
    assert found.changes() == []


def test_entering_needs_the_kind_and_a_stage_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    found = stage(monkeypatch, "enter", kinds=())
    with pytest.raises(RolloutError, match="install Argo Rollouts, or take its component out"):
        switch("enter", "production")
    assert found.changes() == []
    found = stage(monkeypatch, "enter")
    found.running.clear()
    with pytest.raises(RolloutError, match="nothing runs it yet"):
        switch("enter", "production")


def test_the_real_kubectl_knows_every_option(monkeypatch: pytest.MonkeyPatch) -> None:
    kubectl = shutil.which("kubectl")
    if not kubectl:
        pytest.skip("kubectl is not installed: make setup-e2e")
    lines: dict[tuple[str, ...], list[str]] = {}
    for direction in OVERLAYS:
        found = stage(monkeypatch, direction)
        switch(direction, "production")
        lines |= {tuple(sorted(w.partition("=")[0] for w in it)): it for it in found.calls}
    for options in (["--type=merge"], ["--type=merge", "--subresource=status"], ["--type=json"]):
        lines["patch", *options] = ["patch", f"{ARGO}/{NAME}", *options, "--patch=[]"]
    for words in lines.values():
        line = [kubectl, *words, "--server=http://127.0.0.1:9", "--request-timeout=1s"]
        done = subprocess.run(line, input="", capture_output=True, text=True, check=False)
        reached = "refused" in done.stderr or "no objects passed" in done.stderr
        assert reached and "unknown" not in done.stderr, (words, done.stderr)
