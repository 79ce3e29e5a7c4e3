"""Kubernetes: what is created, what the cluster's words mean, and a story with a real attempt."""

import os
import ssl
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import attempts
from jobs.admission import Admission
from jobs.errors import EngineAway, Refused
from jobs.executors import Phase, Seen
from jobs.executors.kubernetes import Executor
from jobs.executors.kubernetes.follow import Note, add, read_note
from jobs.record import Job, State, outcome_in
from jobs.request import Cause, Request
from tests.conftest import ROOT, run
from tests.fakes.batch_api import FakeCluster, Pod, failure, serving
from tests.k8s.crds import TRAIN_JOB, faults
from tests.make.certificates import authority
from tests.make.jobs import JobProject
from tests.make.processes import until

IMAGE = "registry.example.com/team/landcover/jobs:cpu"
QUEUED = "couldn't assign flavors to pod set main: insufficient unused quota for nvidia.com/gpu"
CHECKS = ROOT / ".venv-checks" / "bin" / "kubernetes-validate"


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with serving() as api:
        yield api


@pytest.fixture
def project(cluster: FakeCluster, tmp_path: Path) -> JobProject:
    """A project whose commit is on a remote that pods can clone."""
    origin = tmp_path / "origin.git"
    own: dict[str, Any] = {
        "api": cluster.url,
        "interval": 0.1,
        "credentials": "",
        "namespace": "training",
        "image": IMAGE,
    }
    own |= {"repository": f"file://{origin}", "secrets": ["conveyor-jobs"]}
    own |= {"priority_classes": {"-1000": "low", "0": "normal", "100": "urgent"}}
    made = JobProject(tmp_path / "project", {"grace": 1, "executors": {"kubernetes": own}})
    (made.folder / "src").symlink_to(ROOT / "src")
    made.commit()
    run("git", "init", "--quiet", "--bare", str(origin))
    run("git", "remote", "add", "origin", str(origin), cwd=made.folder)
    run("git", "push", "--quiet", "origin", "main", cwd=made.folder)
    return made


def executor(project: JobProject) -> Executor:
    return Executor(project.settings, project.store)


def queued(project: JobProject, **fields: Any) -> Job:
    """A job whose first attempt is to be launched."""
    document = {"name": "job", "kind": "command", "command": ("true",), "executor": "kubernetes"}
    request = Request.model_validate({**document, **fields})
    job, _ = Admission(project.store, project.settings).submit(request, "ana", again=True)
    return project.store.save(job.moved(State.LAUNCHING, attempt=1))


def launched(project: JobProject, **fields: Any) -> tuple[Executor, Job, str]:
    engine, job = executor(project), queued(project, **fields)
    name = engine.launch(job)
    return engine, project.store.change(job, handle=name), name


def looked(engine: Executor, job: Job) -> Seen:
    return engine.look([job])[job.id]


def test_a_job_waits_in_kueue_runs_in_a_pod_and_ends_as_a_branch_of_the_remote(
    project: JobProject, cluster: FakeCluster, tmp_path: Path
) -> None:
    seen_running = tmp_path / "seen"
    script = "mkdir reports; cat params.yaml > reports/seen; echo 'ein Gruß'"
    script += f"; until [ -e {seen_running} ]; do sleep 0.1; done"
    fields: dict[str, Any] = {"executor": "kubernetes", "queue": "gpus"}
    name = project.submit(script, "--set", "train.batch_size=8", **fields)
    made = f"{name}-1"
    until(lambda: ("jobs", made) in cluster.objects, "created")
    cluster.mark(cluster.workload(made), "QuotaReserved", "Pending", QUEUED, "False", "workloads")
    until(lambda: "insufficient unused quota" in project.store.find(name).reason, "reason")
    assert project.store.find(name).state is State.LAUNCHING
    cluster.broken = failure(503, "no leader")
    until(
        lambda: "kubernetes does not answer, the job stays" in project.store.find(name).reason, ""
    )
    assert project.store.find(name).state is State.LAUNCHING
    cluster.broken = None
    home = tmp_path / "home"
    home.mkdir()
    cluster.run_pod(made, home)
    until(lambda: project.store.find(name).state is State.RUNNING, "running")
    seen_running.touch()
    job = project.ended(name)
    assert job.state is State.SUCCEEDED, job.reason
    assert [event.state for event in job.history][-2:] == [State.RUNNING, State.SUCCEEDED]
    assert project.log(name).count("ein Gruß\n") == 1
    seen = run("git", "show", f"job/{name}:reports/seen", cwd=tmp_path / "origin.git").stdout
    assert "batch_size: 8" in seen and job.outcome
    assert job.outcome.commit in run("git", "rev-parse", "HEAD", cwd=home / "code").stdout
    assert {kind for kind, _ in cluster.objects} == {"workloads"} and not cluster.pods


def test_a_cancelled_job_is_deleted_with_its_pod_and_over_when_both_are_gone(
    project: JobProject, cluster: FakeCluster, tmp_path: Path
) -> None:
    script = "trap '' TERM; echo started; sleep 600"
    name = project.submit(script, executor="kubernetes")
    until(lambda: ("jobs", f"{name}-1") in cluster.objects, "created")
    pod = cluster.run_pod(f"{name}-1", tmp_path)
    until(lambda: "\nstarted\n" in project.log(name), "started")
    project.jobs("cancel", name)
    assert project.ended(name).state is State.CANCELLED
    assert pod.process and pod.process.poll() is not None
    assert not cluster.objects and not cluster.pods


def test_launched_twice_a_job_is_there_once(project: JobProject, cluster: FakeCluster) -> None:
    engine, job, name = launched(project)
    assert engine.launch(job) == name
    assert [key for key in cluster.objects] == [("jobs", name)]
    cluster.named(name)["metadata"]["labels"]["conveyor/attempt"] = "another"
    with pytest.raises(Refused, match="is there and not ours: delete it"):
        engine.launch(job)


UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
UNSCHEDULABLE |= {"message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."}
PULLING = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}


@pytest.mark.parametrize(
    ("status", "phase", "reason"),
    [
        ({}, Phase.WAITING, "its pod is pending"),
        ({"conditions": [UNSCHEDULABLE]}, Phase.WAITING, "Unschedulable: 0/3 nodes are available"),
        ({"containerStatuses": [{"state": PULLING}]}, Phase.WAITING, "ImagePullBackOff: Back-off"),
        ({"phase": "Running"}, Phase.RUNNING, "on a node in the cluster as job-"),
    ],
)
def test_a_job_says_what_its_pod_waits_for(
    project: JobProject, cluster: FakeCluster, status: Any, phase: Phase, reason: str
) -> None:
    engine, job, name = launched(project)
    cluster.start_pod(name, **status)
    found = looked(engine, job)
    assert found.phase is phase and reason in found.reason


def test_a_job_says_why_the_cluster_creates_no_pod(
    project: JobProject, cluster: FakeCluster
) -> None:
    engine, job, name = launched(project)
    assert "its pod is being created" in looked(engine, job).reason
    message = 'pods "x" is forbidden: exceeded quota: compute, requested: cpu=1'
    event = {"reason": "FailedCreate", "message": message, "metadata": {}}
    cluster.objects["events", "e"] = {**event, "involvedObject": {"name": name}}
    assert "exceeded quota: compute" in looked(engine, job).reason


def test_a_preempted_job_waits_again_and_one_without_kueue_says_so(
    project: JobProject, cluster: FakeCluster
) -> None:
    engine, job, name = launched(project, queue="gpus")
    assert "does this cluster have Kueue?" in looked(engine, job).reason
    cluster.has_kueue = False
    assert "does this cluster have Kueue?" in looked(engine, job).reason
    cluster.has_kueue = True
    text = "Preempted to accommodate a workload (UID: 7) due to prioritization in the ClusterQueue"
    cluster.mark(cluster.workload(name), "Evicted", "Preempted", text, plural="workloads")
    found = looked(engine, job)
    assert found.phase is Phase.WAITING and "queue gpus: Preempted: Preempted to" in found.reason


DISRUPTED = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
DISRUPTED |= {"message": "default-scheduler: preempting to accommodate a higher priority pod"}

EVICTED = {"reason": "Evicted", "message": "low on memory"}


@pytest.mark.parametrize(
    ("code", "reason", "status", "log", "cause", "message"),
    [
        (137, "OOMKilled", {}, "", Cause.OUT_OF_MEMORY, "OOMKilled: it used more than its memory"),
        (143, "", {"reason": "DeadlineExceeded"}, "", Cause.TIMED_OUT, "DeadlineExceeded"),
        (137, "", EVICTED, "", Cause.INFRASTRUCTURE, "Evicted: low"),
        (143, "", {"conditions": [DISRUPTED]}, "", Cause.INFRASTRUCTURE, "PreemptionByScheduler"),
        (137, "", {}, "", Cause.INFRASTRUCTURE, "it ended with 137: its log is empty"),
        (75, "", {}, "fatal: no access", Cause.INFRASTRUCTURE, "repository was not cloned: fatal"),
        (128, "", {}, "fatal: reference is no tree", Cause.BROKEN, "ended with 128: fatal: ref"),
        (1, "", {}, 'jobs-outcome: {"cause": "nan", "message": "lost"}', Cause.NAN, "lost"),
    ],
)  # fmt: skip
def test_the_cause_of_a_failure_is_what_the_cluster_did_else_what_the_attempt_said(
    project: JobProject,
    cluster: FakeCluster,
    code: int,
    reason: str,
    status: Any,
    log: str,
    cause: Cause,
    message: str,
) -> None:
    engine, job, name = launched(project)
    pod = cluster.start_pod(name, phase="Running")
    if log:
        pod.write(log)
    cluster.end(name, pod, code, reason, **status)
    outcome = looked(engine, job).outcome
    assert outcome and outcome.cause is cause and message in outcome.message


def test_an_outcome_outlives_the_cluster_and_a_runner_that_is_killed(
    project: JobProject, cluster: FakeCluster
) -> None:
    engine, job, name = launched(project)
    pod = cluster.start_pod(name, phase="Running")
    pod.write("almost done")
    cluster.end(name, pod, 0)
    assert looked(engine, job) == looked(executor(project), job)
    executor(project).look([job])  # killed here; the next runner collects
    engine.collect(job, project.store.log(job))
    assert project.log(job.id) == "almost done\n" and not cluster.objects
    outcome = looked(executor(project), job).outcome
    assert outcome and outcome.cause is None and outcome.ref == f"refs/heads/job/{job.id}"
    executor(project).collect(job, project.store.log(job))


def test_what_is_nowhere_to_be_found_is_lost(project: JobProject, cluster: FakeCluster) -> None:
    engine, job, name = launched(project)
    pod = cluster.start_pod(name, phase="Running")
    del cluster.objects["jobs", name]  # by somebody else; its pod is not gone yet
    assert looked(engine, job).phase is Phase.RUNNING
    del cluster.pods[pod.document["metadata"]["name"]]
    assert looked(engine, job) == Seen(Phase.ENDED)


def test_a_pod_that_does_not_end_is_killed(project: JobProject, cluster: FakeCluster) -> None:
    engine, job, name = launched(project)
    cluster.start_pod(name, phase="Running")
    cluster.stays = True
    engine.cancel(job, kill=False)
    found = looked(engine, job)
    assert found.phase is Phase.RUNNING and "it is being ended" in found.reason
    engine.cancel(job, kill=True)
    assert looked(engine, job) == Seen(Phase.ENDED)
    engine.cancel(job, kill=True)  # again, of what is gone


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (failure(503, "etcdserver: request timed out"), "answered 503: etcdserver"),
        (failure(429, "too many requests"), "answered 429: too many"),
        (failure(401, "Unauthorized"), "does not take the token"),
        ((200, {"html": "a portal"}), "no Kubernetes answers there"),
    ],
)
def test_an_api_that_is_away_changes_nothing(
    project: JobProject, cluster: FakeCluster, answer: Any, said: str
) -> None:
    engine, job, _ = launched(project)
    cluster.broken = answer
    with pytest.raises(EngineAway, match=said):
        engine.look([job])
    if answer[0] >= 400:
        with pytest.raises(EngineAway):
            engine.cancel(job, kill=False)
    cluster.broken = None
    assert looked(executor(project), job).phase is Phase.WAITING


def test_the_wait_that_the_api_asks_for_is_kept(project: JobProject, cluster: FakeCluster) -> None:
    engine, job, _ = launched(project)
    cluster.broken, cluster.retry_after = failure(429, "slow down"), "7"
    with pytest.raises(EngineAway):
        engine.look([job])
    before = len(cluster.requests)
    with pytest.raises(EngineAway, match="no request for 7 s more"):
        engine.look([job])
    assert len(cluster.requests) == before


def test_what_the_api_never_takes_is_refused_with_its_words(
    project: JobProject, cluster: FakeCluster
) -> None:
    cluster.forbidden = {("POST", "jobs")}
    with pytest.raises(Refused, match="cannot create resource: give the account the Role"):
        executor(project).launch(queued(project))
    cluster.forbidden = {("GET", "pods")}
    engine, job, _ = launched(project)
    with pytest.raises(EngineAway, match="pods is forbidden.*give the account the Role"):
        engine.look([job])
    job = queued(project)
    long = job.model_copy(update={"id": "a" * 70})
    with pytest.raises(Refused, match="Kubernetes: Job.batch .* is invalid: metadata.labels"):
        engine.launch(long)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"resources": {"nodes": 2, "processes": 2}}, "resources.processes: 2"),
        ({"executor": "kubernetes", "priority": 5}, "priority: 5, and the cluster's classes"),
    ],
)
def test_a_request_that_no_object_can_say_is_refused(
    project: JobProject, change: Any, said: str
) -> None:
    if "priority" in change:
        own = {**project.settings.executors["kubernetes"], "priority_classes": {}}
        project.write("jobs/settings.yaml", yaml.safe_dump({"executors": {"kubernetes": own}}))
    commit = run("git", "rev-parse", "HEAD", cwd=project.folder).stdout.strip()
    request = Request.model_validate({"name": "job", "commit": commit, **change})
    with pytest.raises(Refused, match=said):
        executor(project).check(request)


def test_a_commit_that_pods_cannot_clone_is_refused(project: JobProject) -> None:
    project.commit()
    request = project.request(executor="kubernetes")
    refused = project.jobs("submit", str(request), check=False)
    assert refused.returncode == 1 and "is on no branch of a remote" in refused.stderr


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({}, "executors.kubernetes: image"),
        ({"image": IMAGE, "repository": "--upload-pack=x"}, "repository: wanted a text like"),
        ({"image": IMAGE, "repository": "https://x/y", "api": "http://10.0.0.1"}, "in the clear"),
        (
            {"image": IMAGE, "repository": "https://x/y", "priority_classes": {"high": "a"}},
            "priority_classes",
        ),
    ],
)
def test_settings_that_are_wrong_are_named(
    project: JobProject, own: dict[str, object], said: str
) -> None:
    settings = project.settings.model_copy(update={"executors": {"kubernetes": own}})
    with pytest.raises(Refused, match=said):
        Executor(settings, project.store)


def test_the_account_of_a_pod_is_read_anew_and_its_authority_alone_is_trusted(
    project: JobProject, tmp_path: Path
) -> None:
    account = tmp_path / "account"
    account.mkdir()
    certificate, key = authority(tmp_path, "cluster")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(context) as cluster:
        own = {**project.settings.executors["kubernetes"], "credentials": str(account)}
        own |= {"api": cluster.url}
        settings = project.settings.model_copy(update={"executors": {"kubernetes": own}})
        engine, job = Executor(settings, project.store), queued(project)
        with pytest.raises(EngineAway, match="has no usable token and ca.crt"):
            engine.launch(job)
        (account / "token").write_text("token-1\n", encoding="ascii")
        other, _ = authority(tmp_path, "another")
        (account / "ca.crt").write_bytes(other.read_bytes())
        with pytest.raises(EngineAway, match="CERTIFICATE_VERIFY_FAILED"):
            engine.launch(job)
        (account / "ca.crt").write_bytes(certificate.read_bytes())
        cluster.token = "token-2"
        with pytest.raises(EngineAway, match="does not take the token"):
            engine.launch(job)
        (account / "token").write_text("token-2\n", encoding="ascii")
        assert engine.launch(job) in str(cluster.objects)


def lines(*stamped: tuple[int, str]) -> str:
    pod = Pod({})
    for second, text in stamped:
        pod.write(text, datetime(2026, 11, 30, 6, 0, second, tzinfo=UTC))
    return "".join(pod.lines)


def test_each_line_of_a_log_is_written_once(tmp_path: Path) -> None:
    path, log = tmp_path / "note", tmp_path / "log"
    log.write_text("attempt 1\n", encoding="utf-8")
    add(lines((1, "a"), (2, "b")), "pod", read_note(path), path, log)
    after_two = read_note(path)
    add(lines((2, "b"), (2, "ç"), (3, "d")), "pod", after_two, path, log)
    assert log.read_text(encoding="utf-8") == "attempt 1\na\nb\nç\nd\n"
    path.write_text(after_two.model_dump_json(), encoding="utf-8")  # killed before the note
    add(lines((2, "b"), (2, "ç"), (3, "d"), (3, "e")), "pod", read_note(path), path, log)
    assert log.read_text(encoding="utf-8") == "attempt 1\na\nb\nç\nd\ne\n"
    add("", "pod", read_note(path), path, log)
    add(lines((4, "f")), "another", read_note(path), path, log)
    assert log.read_text(encoding="utf-8").endswith("e\nf\n")
    path.write_text("damaged", encoding="utf-8")
    assert read_note(path) == Note()


def test_the_job_is_valid_and_restricted_and_its_limits_are_those_of_the_request(
    project: JobProject, cluster: FakeCluster, tmp_path: Path
) -> None:
    if not CHECKS.exists():
        pytest.skip("kubernetes-validate is not installed: make setup-e2e")
    resources = {"cpus": 3, "memory": "8GB", "gpus": 2, "time": "2h"}
    made = [
        cluster.named(launched(project, resources=resources, priority=100, queue=queue)[2])
        for queue in ("gpus", "")
    ]
    path = tmp_path / "jobs.yaml"
    path.write_text(yaml.safe_dump_all(made), encoding="utf-8")
    words = (CHECKS, "--strict", "-k", "1.31", path)
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" passed for resource ") == 2
    by_kueue, at_once = made
    labels = by_kueue["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "gpus" and by_kueue["spec"]["suspend"]
    assert labels["kueue.x-k8s.io/priority-class"] == "urgent" and not at_once["spec"]["suspend"]
    pod = at_once["spec"]["template"]["spec"]
    assert pod["priorityClassName"] == "urgent" and pod["activeDeadlineSeconds"] == 7800
    assert "kueue.x-k8s.io/queue-name" not in at_once["spec"]["template"]["metadata"]["labels"]
    limits = pod["containers"][0]["resources"]["limits"]
    assert (limits["cpu"], limits["memory"], limits["nvidia.com/gpu"]) == ("3", "8000000000", "2")
    deployment = yaml.safe_load((ROOT / "k8s/base/deployment.yaml").read_text(encoding="utf-8"))
    service = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"] == service["securityContext"]
    assert pod["containers"][0]["securityContext"] == service["containers"][0]["securityContext"]


def test_several_nodes_are_a_train_job_that_is_followed_as_one(
    project: JobProject, cluster: FakeCluster, tmp_path: Path
) -> None:
    resources = {"nodes": 2, "gpus": 1}
    engine, job, name = launched(project, resources=resources, queue="gpus", priority=1)
    made = cluster.named(name, "trainjobs")
    asked = {key: made["metadata"][key] for key in ("name", "namespace", "labels")}
    assert faults({**made, "metadata": asked}, TRAIN_JOB) == []
    assert made["spec"]["trainer"]["numNodes"] == 2
    trainer = made["spec"]["trainer"]
    ranks = {"PET_NODE_RANK": "1", "PET_NNODES": "2", "PET_MASTER_ADDR": "a", "HOME": str(tmp_path)}
    variables = {row["name"]: row["value"] for row in trainer["env"]} | ranks
    environment = {**os.environ, **variables}
    joined = subprocess.run(trainer["command"], env=environment, capture_output=True, text=True)
    said = outcome_in(joined.stdout)  # it has joined, and publishes nothing
    assert said and (said.exit_code, said.gpus, said.commit) == (0, 2, ""), joined.stderr
    index = "batch.kubernetes.io/job-completion-index"
    pods = [cluster.start_pod(name, "trainjobs", phase="Running") for _ in range(2)]
    for rank, pod in enumerate(pods):
        pod.document["metadata"]["labels"][index] = str(rank)
    pods[0].write("of rank 0")
    assert looked(engine, job).phase is Phase.RUNNING
    engine.collect(job, project.store.log(job))
    assert project.log(job.id) == "of rank 0\n"
    state = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    pods[1].document["status"] = {"phase": "Failed", "containerStatuses": [{"state": state}]}
    cluster.mark(name, "Failed", "JobsFailed", "jobset failed", plural="trainjobs")
    outcome = looked(engine, job).outcome
    assert outcome and outcome.cause is Cause.OUT_OF_MEMORY and outcome.gpus == 2
    assert attempts.outcome(job, project.store) == outcome
