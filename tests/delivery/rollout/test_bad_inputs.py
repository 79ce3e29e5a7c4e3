"""What a cluster may refuse or lack: one sentence with the cure, and the stage as it was."""

import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.cluster import Call
from tests.make.rollouts import NEEDS_KUSTOMIZE, STAGING, Project, image

pytestmark = NEEDS_KUSTOMIZE

WHERE = 'Error from server ({}): error when creating "STDIN": '
REFUSALS = {
    "no right to create": (
        WHERE.format("Forbidden")
        + 'ingresses.networking.k8s.io is forbidden: User "agent" cannot create resource '
        '"ingresses" in API group "networking.k8s.io" in the namespace "landcover-staging"',
        "give this account the role of k8s/setup/deployer.yaml",
    ),
    "a webhook that refuses": (
        WHERE.format("Forbidden")
        + 'admission webhook "validate.kyverno.svc-fail" denied the request: label team is '
        "required",
        "label team is required: change the overlay as it says, or ask whoever runs this policy",
    ),
    "a webhook that does not answer": (
        WHERE.format("InternalError")
        + 'Internal error occurred: failed calling webhook "mutate.example.com": Post '
        '"https://webhook.example.svc:443/": dial tcp 10.0.0.1:443: connect: connection refused',
        "ask whoever runs this webhook",
    ),
    "an object whose kind is missing": (
        'error: resource mapping not found for name: "landcover" namespace: "landcover-staging" '
        'from "STDIN": no matches for kind "ExternalSecret" in version "external-secrets.io/v1"',
        "install what defines the kind, or take its component out of the overlay",
    ),
    "a quota": (
        WHERE.format("Forbidden")
        + 'configmaps "landcover-settings" is forbidden: exceeded quota: small, requested: '
        "count/configmaps=1, used: count/configmaps=5, limited: count/configmaps=5",
        "raise the quota of the namespace",
    ),
    "a namespace that is not there": (
        'Error from server (NotFound): namespaces "landcover-staging" not found',
        "create the namespace first",
    ),
}


@pytest.fixture
def project(tmp_path: Path, bundles: dict[int, Path]) -> Iterator[Project]:
    """A project whose stage serves v1.1.0."""
    found = Project(tmp_path, bundles)
    try:
        assert found.roll_out(1).returncode == 0
        yield found
    finally:
        found.cluster.stop()


def failed(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence of a rollout that failed."""
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return sentence


@pytest.mark.parametrize("case", REFUSALS)
def test_what_the_cluster_would_refuse_is_refused_before_anything_changes(
    project: Project, case: str
) -> None:
    said, cure = REFUSALS[case]
    project.cluster.configure(refusal=said)
    before = len(project.verbs())
    sentence = failed(project.roll_out(2))
    assert cure in sentence and sentence.endswith("; nothing was changed")
    changes = {"apply", "patch", "annotate", "delete"}
    assert not changes & {verb.split()[0] for verb in project.verbs()[before:]}
    assert project.serving() == "landcover@v1.1.0"
    assert project.result()["result"] == "failed" and sentence[7:] == project.result()["reason"]
    project.cluster.configure(refusal="")
    assert project.roll_out(2).returncode == 0 and project.serving() == "landcover@v1.2.0"


def test_a_webhook_that_can_not_be_tried_in_vain_is_no_reason_to_stop(project: Project) -> None:
    project.cluster.configure(
        trial='Error from server (BadRequest): admission webhook "x" does not support dry run'
    )
    done = project.roll_out(2)
    assert done.returncode == 0 and "not checked beforehand: kubectl apply: Error" in done.stdout


NO_NODE = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
STUCK: dict[str, tuple[Any, Any, str]] = {
    "an image that can not be pulled": (
        {
            "containerStatuses": [
                {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "unauthorized"}}}
            ]
        },
        {},
        "(ImagePullBackOff; unauthorized: let the nodes pull it: compare the registry's name, and "
        "the secret ...-registry",
    ),
    "settings that the service refuses": (
        {
            "containerStatuses": [
                {
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "lastState": {
                        "terminated": {
                            "reason": "Error",
                            "message": "{}\nerror: SERVICE_CA_FILE: '/etc/service-ca/ca.crt' "
                            "holds no certificate: mount a file with CAs in PEM\n",
                        }
                    },
                }
            ]
        },
        {},
        # The sentence of the service has the cure: none of kubectl's certificates is added.
        "(CrashLoopBackOff; Error: error: SERVICE_CA_FILE: '/etc/service-ca/ca.crt' holds no "
        "certificate: mount a file with CAs in PEM)",
    ),
    "no node with the space": (
        {
            "conditions": [
                {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "Unschedulable",
                    "message": NO_NODE,
                }
            ]
        },
        {},
        f"(Unschedulable; {NO_NODE.rstrip('.')}: add a node or free one, or lower the requests",
    ),
    "a node whose disk is full": (
        {
            "phase": "Failed",
            "reason": "Evicted",
            "message": "The node was low on resource: ephemeral-storage",
        },
        {},
        "(Evicted; The node was low on resource: ephemeral-storage: free space on the node",
    ),
    "a namespace with other labels": (
        {},
        {
            "conditions": [
                {
                    "type": "ReplicaFailure",
                    "status": "True",
                    "reason": "FailedCreate",
                    "message": 'pods "landcover-" is forbidden: violates PodSecurity '
                    '"restricted:latest": runAsNonRoot != true',
                }
            ]
        },
        "runAsNonRoot != true: compare the labels of the namespace with k8s/setup/namespaces.yaml",
    ),
    "a webhook for pods that refuses": (
        {},
        {
            "conditions": [
                {
                    "type": "ReplicaFailure",
                    "status": "True",
                    "message": 'admission webhook "pods.example.com" denied the request: no',
                }
            ]
        },
        "change the overlay as it says, or ask whoever runs this policy of the cluster",
    ),
}


@pytest.mark.parametrize("case", STUCK)
def test_pods_that_never_start_are_explained_and_undone(project: Project, case: str) -> None:
    pod, workload, said = STUCK[case]
    project.cluster.configure(stuck={image(2): (pod, workload)})
    sentence = failed(project.roll_out(2))
    assert said in sentence and sentence.endswith("rolled back, landcover@v1.1.0 serves again")
    assert project.serving() == "landcover@v1.1.0"
    project.cluster.configure(stuck={})
    assert project.roll_out(2).returncode == 0 and project.serving() == "landcover@v1.2.0"


def test_of_two_rollouts_at_once_the_later_one_decides_and_none_is_undone(
    project: Project,
) -> None:
    """The second begins when the first one has applied, and waits for its pods."""
    ended: list[int] = []
    answer, lock = project.cluster.answer, threading.Lock()

    def meanwhile(call: Call) -> None:
        with lock:
            first = call.argv[:2] == ["rollout", "status"] and not ended
            if first:
                ended.append(-1)
        if first:
            second = project.start(4)
            _, errors = second.communicate(timeout=120)
            ended[0] = second.returncode
            assert ended == [0], errors
        answer(call)

    project.cluster.answer = meanwhile  # type: ignore[method-assign]
    process = project.start(2)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1 and ended == [0]
    assert "staging does not serve landcover@v1.2.0" in errors
    assert "another rollout has begun meanwhile, of landcover@v1.4.0: it decides" in errors
    assert "undo" not in " ".join(project.verbs())
    assert project.serving() == "landcover@v1.4.0"
    assert "already" in project.roll_out(4).stdout


def test_what_another_rollout_has_applied_is_not_marked_as_good(project: Project) -> None:
    """Its smoke test has passed, and the other one applied between the two."""
    marks = project.verbs().count("annotate deployment/landcover conveyor/good")
    stage, answer = project.cluster.stage(STAGING), project.cluster.answer

    def overtake(call: Call) -> None:
        answer(call)
        if call.argv[:2] == ["rollout", "status"]:
            stage.state["annotations"]["conveyor/applied"] = "of another rollout"

    project.cluster.answer = overtake  # type: ignore[method-assign]
    sentence = failed(project.roll_out(2))
    assert "overtaken before it was marked as good; another rollout has begun" in sentence
    assert project.verbs().count("annotate deployment/landcover conveyor/good") == marks
    assert "undo" not in " ".join(project.verbs())


@pytest.mark.parametrize(("server", "warned"), [("30", True), ("31+", False), ("34", True)])
def test_a_kubectl_two_minors_off_is_told_and_no_reason_to_stop(
    project: Project, server: str, warned: bool
) -> None:
    project.cluster.configure(server=server)
    done = project.roll_out(2)
    assert done.returncode == 0 and project.serving() == "landcover@v1.2.0"
    told = f"warning: kubectl 1.32 is made for clusters of 1.31 to 1.33, and this one is 1.{server}"
    assert (told in done.stdout) is warned
    assert ("install kubectl 1.34" in done.stdout) is (server == "34")


def test_a_cluster_that_does_not_say_its_version_is_no_reason_to_stop(project: Project) -> None:
    project.cluster.configure(server="")
    done = project.roll_out(2)
    assert done.returncode == 0 and "warning" not in done.stdout


def test_the_real_kubectl_knows_the_options_of_these_calls() -> None:
    kubectl = shutil.which("kubectl")
    if not kubectl:
        pytest.skip("kubectl is not installed: make setup-e2e")
    for words in (["apply", "--dry-run=server", "--filename=-"], ["version", "--output=json"]):
        line = [kubectl, *words, "--namespace=x", "--server=http://127.0.0.1:9"]
        text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n"
        done = subprocess.run(line, input=text, capture_output=True, text=True, check=False)
        assert "refused" in done.stderr and "unknown" not in done.stderr, done.stderr
