"""Fields of the operators' objects, as far as the manifests use them.

Kubernetes' own schemas do not know these kinds. The fields were read off the definitions that Argo
Rollouts, the Prometheus operator, the Gateway API, External Secrets (0.16) and KEDA (2.15) ship;
one that is not listed here is a fault.
"""

from typing import Any

Node = Any
STRINGS = {"*": str}  # any names
NUMBER_OR_SHARE = (int, str)

_METADATA = {"name": str, "namespace": str, "labels": STRINGS, "annotations?": STRINGS}
_ANALYSIS = {
    "templates": [{"templateName": str}],
    "args": [{"name": str, "valueFrom?": {"podTemplateHashValue": str}, "value?": str}],
}
_STEP = {"setWeight?": int, "analysis?": _ANALYSIS}
_METRIC = {
    "name": str,
    "initialDelay": str,
    "successCondition": str,
    "provider": {"prometheus": {"address": str, "query": str}},
}

KINDS: dict[str, Node] = {
    "Rollout": {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Rollout",
        "metadata": _METADATA,
        "spec": {
            "selector": {"matchLabels": STRINGS},
            "template": {"metadata": {"labels": STRINGS}, "spec": dict},
            "revisionHistoryLimit": int,
            "rollbackWindow": {"revisions": int},
            "minReadySeconds": int,
            "progressDeadlineSeconds": int,
            "progressDeadlineAbort": bool,
            "strategy": {
                "canary?": {
                    "maxSurge": NUMBER_OR_SHARE,
                    "maxUnavailable": NUMBER_OR_SHARE,
                    "steps": [_STEP],
                },
                "blueGreen?": {"activeService": str, "postPromotionAnalysis": _ANALYSIS},
            },
        },
    },
    "AnalysisTemplate": {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "AnalysisTemplate",
        "metadata": _METADATA,
        "spec": {"args": [{"name": str, "value?": str}], "metrics": [_METRIC]},
    },
    "HTTPRoute": {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": _METADATA,
        "spec": {
            "parentRefs": [{"name": str, "namespace": str}],
            "hostnames": [str],
            "rules": [
                {
                    "matches": [{"path": {"type": str, "value": str}}],
                    "timeouts": {"request": str},
                    "backendRefs": [{"name": str, "port": int}],
                }
            ],
        },
    },
    "ExternalSecret": {
        "apiVersion": "external-secrets.io/v1",
        "kind": "ExternalSecret",
        "metadata": _METADATA,
        "spec": {
            "refreshInterval": str,
            "secretStoreRef": {"kind": str, "name": str},
            "target": {"name": str, "deletionPolicy": str},
            "dataFrom": [{"extract": {"key": str}}],
        },
    },
    "ScaledObject": {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": _METADATA,
        "spec": {
            "scaleTargetRef": {"apiVersion": str, "kind": str, "name": str},
            "minReplicaCount": int,
            "maxReplicaCount": int,
            "advanced": {"horizontalPodAutoscalerConfig": {"name": str, "behavior": dict}},
            "triggers": [{"type": str, "metricType?": str, "metadata": STRINGS}],
        },
    },
    "ServiceMonitor": {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": _METADATA,
        "spec": {
            "selector": {"matchLabels": STRINGS},
            "podTargetLabels": [str],
            "endpoints": [{"port": str, "path": str, "interval": str, "scrapeTimeout": str}],
        },
    },
}


_MANAGED = {
    "securityContext": dict,
    "imagePullSecrets": [{"name": str}],
    "volumes": [dict],
    "containers": [{"name": str, "securityContext": dict, "volumeMounts": [dict]}],
}
_PATCH = {"metadata": {"labels": STRINGS}, "spec": _MANAGED}
TRAIN_JOB: Node = {
    "apiVersion": "trainer.kubeflow.org/v1alpha1",
    "kind": "TrainJob",
    "metadata": _METADATA,
    "spec": {
        "suspend": bool,
        "activeDeadlineSeconds": int,
        "runtimeRef": {"name": str},
        "trainer": {
            "image": str,
            "command": [str],
            "env": [{"name": str, "value": str}],
            "numNodes": int,
            "resourcesPerNode": {"requests": STRINGS, "limits": STRINGS},
        },
        "runtimePatches": [
            {
                "manager": str,
                "trainingRuntimeSpec": {
                    "template": {
                        "spec": {
                            "replicatedJobs": [
                                {"name": str, "template": {"spec": {"template": _PATCH}}}
                            ]
                        }
                    }
                },
            }
        ],
    },
}
"""Of jobs, in no overlay. From pkg/apis/trainer/v1alpha1/trainjob_types.go of Kubeflow's Trainer at
8c0f505 (2.2 and newer); containers of a patch have no `env` when they are called `node`."""


def faults(document: dict[str, Any], node: Node = None) -> list[str]:
    """What is wrong with an object of one of these kinds; a `?` marks what may be left out."""
    return _faults(document, node or KINDS[document["kind"]], document["kind"])


def _faults(value: Any, node: Node, where: str) -> list[str]:
    if isinstance(node, dict):
        return _faults_of_fields(value, node, where)
    if isinstance(node, list):
        if not isinstance(value, list):
            return [f"{where} is no list"]
        found = [_faults(item, node[0], f"{where}[{n}]") for n, item in enumerate(value)]
        return [line for lines in found for line in lines]
    if isinstance(node, str):
        return [] if value == node else [f"{where} is {value!r}, not {node!r}"]
    wanted = node if isinstance(node, tuple) else (node,)
    return [] if type(value) in wanted else [f"{where} is {value!r}, no {node}"]


def _faults_of_fields(value: Any, node: dict[str, Node], where: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{where} is no object"]
    if "*" in node:
        node = dict.fromkeys(value, node["*"])
    fields = {key.removesuffix("?"): item for key, item in node.items()}
    found = [f"{where} has a field {key}" for key in value.keys() - fields.keys()]
    found += [f"no {where}.{key}" for key in node if not key.endswith("?") and key not in value]
    for key in value.keys() & fields.keys():
        found += _faults(value[key], fields[key], f"{where}.{key}")
    return found
