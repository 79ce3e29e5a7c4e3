"""What is created in the cluster: a Job, or a TrainJob of Kubeflow's Trainer for several nodes.

Their pods clone the repository, check the commit out, and run `python -m jobs.attempt` in it.
Kueue, where a queue is named, admits the whole object: it is created suspended. The attempt ends
itself in time; the limit here, of the pod and not of the time that it waits, is for one that hangs.
"""

from typing import Annotated, Any

from pydantic import Field

from jobs.errors import Refused
from jobs.record import Attempt, Job
from jobs.request import MEMORY, NAME, Part, of_memory

Document = dict[str, Any]
ATTEMPT = "conveyor/attempt"
QUEUE = "kueue.x-k8s.io/queue-name"
PRIORITY = "kueue.x-k8s.io/priority-class"
MINE = {"app.kubernetes.io/part-of": "conveyor", "app.kubernetes.io/component": "job"}
SELECTOR = ",".join(f"{key}={value}" for key, value in MINE.items())
CONTAINER = "node"
"""Name of the container, and of the replicated job in the runtimes of Kubeflow's Trainer."""
SPARE = 600  # seconds for images and the clone, beyond the limit that the attempt keeps itself
NOT_CLONED = 75  # exit code
SCRIPT = (
    f'cd "$HOME" && git clone --quiet --no-checkout -- "$1" code || exit {NOT_CLONED}; cd code && '
    'git checkout --quiet --detach "$2" && PYTHONPATH=src exec python -m jobs.attempt'
)
HELPER = '!f() { echo "username=$GIT_USERNAME"; echo "password=$GIT_PASSWORD"; }; f'
CREDENTIALS = {
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "credential.helper",
    "GIT_CONFIG_VALUE_0": HELPER,
}
"""Let Git take user and password from a secret that has these two variables."""


class KubernetesSettings(Part):
    """The section `kubernetes`."""

    api: str = Field(default="https://kubernetes.default.svc", pattern=r"^https?://\S+$")
    credentials: str = "/var/run/secrets/kubernetes.io/serviceaccount"
    """Folder with `token` and `ca.crt`; empty with `kubectl proxy`."""
    namespace: str = Field(default="default", pattern=NAME)
    image: str = Field(pattern=r"^[a-z0-9]\S{0,499}$")
    """The image `train` of this repository, or another with its Python and Git."""
    repository: str = Field(pattern=r"^(https://|ssh://|file:///)\S+$")
    """Address that pods clone and push to."""
    secrets: tuple[str, ...] = ()
    """Their keys are variables of the attempt, as GIT_USERNAME, GIT_PASSWORD, AWS_ACCESS_KEY_ID."""
    pull_secrets: tuple[str, ...] = ()
    priority_classes: dict[Annotated[str, Field(pattern=r"^-?\d{1,4}$")], str] = {}
    """Least priority -> class of Kueue where the job names a queue, else of pods."""
    gpu: str = "nvidia.com/gpu"
    disk: str = Field(default="20GB", pattern=MEMORY)
    runtime: str = Field(default="torch-distributed", pattern=NAME)
    """ClusterTrainingRuntime of jobs with several nodes."""
    interval: float = Field(default=2.0, gt=0, le=600)
    """Seconds between two looks at the cluster."""
    keep: int = Field(default=604800, ge=3600)
    """Seconds after which the cluster deletes what has ended, if nobody here has."""


def name_of(job: Job) -> str:
    """Name of the newest attempt's object."""
    return job.attempt_id.replace(".", "-")


def priority_class(priority: int, own: KubernetesSettings) -> str:
    """The class of a priority: that of the largest number which is not above it.

    Raises:
        Refused: the settings have no classes, and the priority is not 0.
    """
    classes = sorted((int(least), name) for least, name in own.priority_classes.items())
    if priority and not classes:
        raise Refused(
            f"priority: {priority}, and the cluster's classes are not named: set "
            "executors.kubernetes.priority_classes, as {0: normal, 100: urgent}"
        )
    return next((name for least, name in reversed(classes) if least <= priority), "")


def manifest(job: Job, attempt: Attempt, own: KubernetesSettings) -> Document:
    """The object of an attempt."""
    request = job.current
    labels = {**MINE, ATTEMPT: job.attempt_id}
    chosen = priority_class(request.priority, own)
    if request.queue:
        labels[QUEUE] = request.queue
        labels |= {PRIORITY: chosen} if chosen else {}
    metadata = {"name": name_of(job), "namespace": own.namespace, "labels": labels}
    limit = request.resources.seconds + SPARE
    if request.resources.nodes > 1:
        return _train_job(metadata, attempt, own, limit, bool(request.queue))
    pod = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": limit,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": int(attempt.grace) + 10,
        **({"priorityClassName": chosen} if chosen and not request.queue else {}),
        **_pod(own),
        "containers": [{"name": CONTAINER, **_container(attempt, own), **_inside(own)}],
    }
    spec = {
        "suspend": bool(request.queue),
        "backoffLimit": 0,  # what is tried again is decided here, and recorded
        "ttlSecondsAfterFinished": own.keep,
        "template": {"metadata": {"labels": {**MINE, ATTEMPT: attempt.id}}, "spec": pod},
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def _train_job(
    metadata: Document, attempt: Attempt, own: KubernetesSettings, limit: int, suspend: bool
) -> Document:
    container = _container(attempt, own)
    resources = container.pop("resources")
    container.pop("envFrom")
    # A TrainJob takes no envFrom: a secret is mounted as files, and the script reads them.
    secrets = [{"name": f"secret-{n}", "secret": {"secretName": s}} for n, s in _numbered(own)]
    mounts = [{"name": f"secret-{n}", "mountPath": f"/secrets/{n}"} for n, _ in _numbered(own)]
    pod, inside = _pod(own), _inside(own)
    pod["volumes"] += secrets
    inside["volumeMounts"] += mounts
    container["command"][2] = READ_SECRETS + JOIN + container["command"][2]
    patch = {
        "metadata": {"labels": {**MINE, ATTEMPT: attempt.id}},
        "spec": {**pod, "containers": [{"name": CONTAINER, **inside}]},
    }
    replicated = {"name": CONTAINER, "template": {"spec": {"template": patch}}}
    template = {"spec": {"replicatedJobs": [replicated]}}
    spec = {
        "suspend": suspend,
        "activeDeadlineSeconds": limit,
        "runtimeRef": {"name": own.runtime},
        "trainer": {**container, "numNodes": attempt.nodes, "resourcesPerNode": resources},
        "runtimePatches": [
            {"manager": "conveyor/jobs", "trainingRuntimeSpec": {"template": template}}
        ],
    }
    version = "trainer.kubeflow.org/v1alpha1"
    return {"apiVersion": version, "kind": "TrainJob", "metadata": metadata, "spec": spec}


READ_SECRETS = (
    'for file in /secrets/*/*; do [ ! -f "$file" ] || '
    'export "${file##*/}=$(cat "$file")"; done; '
)
JOIN = (
    "export RANK=$PET_NODE_RANK WORLD_SIZE=$PET_NNODES LOCAL_RANK=0 "
    "MASTER_ADDR=$PET_MASTER_ADDR MASTER_PORT=$PET_MASTER_PORT; "
)
"""What Kubeflow's Trainer tells torchrun, in the words of torch.distributed: a process a node."""


def _numbered(own: KubernetesSettings) -> list[tuple[int, str]]:
    return list(enumerate(own.secrets))


def _container(attempt: Attempt, own: KubernetesSettings) -> Document:
    amounts: Document = {"cpu": str(attempt.cpus), "memory": str(attempt.memory)}
    amounts["ephemeral-storage"] = str(of_memory(own.disk))
    if attempt.gpus:
        amounts[own.gpu] = str(attempt.gpus)
    variables = {"HOME": "/work", "JOBS_ATTEMPT": attempt.model_dump_json(), **CREDENTIALS}
    return {
        "image": own.image,
        "command": ["sh", "-c", SCRIPT, "attempt", own.repository, attempt.commit],
        "env": [{"name": name, "value": _literal(value)} for name, value in variables.items()],
        "envFrom": [{"secretRef": {"name": name}} for name in own.secrets],
        "resources": {"requests": amounts, "limits": amounts},
    }


def _literal(value: str) -> str:
    """A value in which Kubernetes expands nothing: `$(NAME)` is what it would."""
    return value.replace("$(", "$$(")


def _pod(own: KubernetesSettings) -> Document:
    return {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "imagePullSecrets": [{"name": name} for name in own.pull_secrets],
        "volumes": [
            {"name": "work", "emptyDir": {"sizeLimit": str(of_memory(own.disk))}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
        ],
    }


def _inside(own: KubernetesSettings) -> Document:
    return {
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "work", "mountPath": "/work"},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
        ],
    }
