"""Command: hand a stage from its Deployment to Argo Rollouts, or back, without an outage.

    python -m delivery.rollout.switch enter production
    python -m delivery.rollout.switch leave production

The overlay has the component of Argo Rollouts already, or no longer. The version stays. In this
order, and from the start again where it was stopped:

    create as many new pods -> wait until all are available -> autoscaler -> delete the old pods

The Service selects the pods of both, so both serve until then. Rollouts of the stage are refused
meanwhile. The account has to have the right to delete, which the pipeline's has not.

Environment: KUBE_CONTEXT (kubectl's context).
"""

import copy
import json
import os

from contracts import commands
from contracts.tags import STAGES
from delivery.errors import RolloutError, command
from delivery.rollout.cluster import Cluster
from delivery.rollout.controller import ROLLING, TIMEOUTS
from delivery.rollout.manifests import for_version, render, to_yaml, workload_of
from delivery.rollout.preflight import REQUIRED, refuse_inadmissible, without_unknown
from delivery.rollout.workload import WORKLOADS, Running, Workload
from delivery.tags import model_name, parse_stage

KINDS = {"enter": "Rollout", "leave": "Deployment"}
SCALERS = ("HorizontalPodAutoscaler", "ScaledObject")
COMPONENTS = {
    "enter": "write the component canary or blue-green into it, commit it",
    "leave": "take the component of Argo Rollouts out of it, commit it",
}


@command
def main() -> None:
    """Move one stage."""
    parser = commands.parser("delivery.rollout.switch", __doc__)
    parser.add_argument("direction", choices=KINDS)
    parser.add_argument("stage", help=f"one of {', '.join(STAGES)}")
    arguments = parser.parse_args()
    stage = parse_stage(arguments.stage)
    print(switch(arguments.direction, stage, os.environ.get("KUBE_CONTEXT", "")))


def switch(direction: str, stage: str, context: str = "") -> str:
    """Move a stage; returns what runs it now, in a sentence.

    Raises:
        RolloutError: the overlay says otherwise, the stage is not at rest, the account may not
            delete, or the new pods do not become available; then the old ones still serve.
    """
    kind, name = KINDS[direction], model_name()
    documents = render(stage, name)
    own = workload_of(documents)
    if own["kind"] != kind:
        raise RolloutError(
            f"{stage}: its overlay has a {own['kind']}: {COMPONENTS[direction]}, then `make "
            f"argo-{direction} STAGE={stage}`; nothing was changed"
        )
    cluster = Cluster(own["metadata"]["namespace"], name, context)
    (other,) = WORKLOADS.keys() - {kind}
    new, old = WORKLOADS[kind](cluster), WORKLOADS[other](cluster)
    documents = without_unknown(documents, cluster)
    known = other not in REQUIRED or cluster.knows(*REQUIRED[other][0])
    before, after = old.running() if known else None, new.running()
    if before is None:
        if after is None:
            raise RolloutError(f"{stage}: nothing runs it yet: roll a version out")
        return f"{stage} is run by a {kind} already"
    _check(stage, old, before, after, cluster)
    version = before.version
    assert version is not None  # checked
    documents = for_version(documents, version, before.image)
    refuse_inadmissible(documents, cluster)
    scalers = [item for item in documents if item["kind"] in SCALERS]
    others = [item for item in documents if item not in scalers]
    pods = max(before.replicas, after.replicas if after else 0)
    print(f"{stage}: {pods} pods of {version.tag} from a {other} to a {kind}", flush=True)
    if after is None:
        # Created, not applied: an apply would own the number, and the next one without it reset it.
        first = copy.deepcopy(workload_of(documents))
        first["spec"]["replicas"] = pods
        beside = [item for item in others if item["kind"] != kind]
        cluster.apply(to_yaml(beside))  # what the pods need
        cluster.call("create", "--filename=-", stdin=to_yaml([first]), show=True)
    elif after.replicas < pods:
        change = json.dumps({"spec": {"replicas": pods}})
        cluster.call("patch", new.name, "--type=merge", f"--patch={change}")
    cluster.apply(to_yaml(others))
    new.wait(TIMEOUTS[ROLLING])
    new.mark_good()
    if scalers:
        cluster.apply(to_yaml(scalers))
    cluster.call("delete", old.name, "--ignore-not-found", timeout=TIMEOUTS[ROLLING], show=True)
    return f"{stage} is run by a {kind}"


def _check(
    stage: str, old: Workload, before: Running, after: Running | None, cluster: Cluster
) -> None:
    """Refuse what could not be finished.

    Raises:
        RolloutError: the stage is not at rest, not ours or blue-green, or the account may not
            delete.
    """
    if before.version is None:
        raise RolloutError(f"{stage}: {old.name} is of another tool; nothing was changed")
    if "blueGreen" in cluster.get(old.name)["spec"].get("strategy", {}):
        raise RolloutError(
            f"{stage}: its Service leads to the blue-green pods alone: commit the component canary "
            "in place of blue-green and roll the version out, then leave; nothing was changed"
        )
    if after is None and not before.complete:
        raise RolloutError(
            f"{stage}: {old.name} is not at rest: let its rollout end, or roll out again; nothing "
            "was changed"
        )
    try:
        cluster.call("auth", "can-i", "delete", old.resource)
    except RolloutError:
        raise RolloutError(
            f"{stage}: this account may not delete {old.name}, or cannot say so: set KUBE_CONTEXT "
            "to an administrator's context; nothing was changed"
        ) from None


if __name__ == "__main__":
    main()
