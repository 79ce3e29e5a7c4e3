"""What starts training on several machines: fields that exist, and commands that run."""

import re
import subprocess
from typing import Any

import yaml

from pipeline.training.processes import find_place
from tests.conftest import ROOT
from tests.k8s import crds

LAUNCHERS = ROOT / "launchers"
STRINGS = crds.STRINGS
TRAINJOB = {
    "apiVersion": "trainer.kubeflow.org/v1alpha1",
    "kind": "TrainJob",
    "metadata": {"generateName": str, "labels": STRINGS},
    "spec": {
        "runtimeRef": {"name": str},
        "trainer": {
            "image": str,
            "command": [str],
            "numNodes": int,
            "numProcPerNode": int,
            "env": [{"name": str, "value": str}],
            "resourcesPerNode": {"requests": STRINGS, "limits": STRINGS},
        },
        "runtimePatches": [
            {"manager": str, "trainingRuntimeSpec": {"template": {"spec": dict}}},
        ],
    },
}
"""As far as the manifest uses it, of the definition in Kubeflow Trainer (August 2026)."""
POD = {
    "volumes": [{"name": str, "persistentVolumeClaim": {"claimName": str}}],
    "containers": [{"name": str, "volumeMounts": [{"name": str, "mountPath": str}]}],
}


def trainjob() -> Any:
    return yaml.safe_load((LAUNCHERS / "trainjob.yaml").read_text(encoding="utf-8"))


def test_the_trainjob_has_fields_that_kubeflow_knows(monkeypatch: Any) -> None:
    monkeypatch.setitem(crds.KINDS, "TrainJob", TRAINJOB)
    monkeypatch.setitem(crds.KINDS, "Pod", POD)
    job = trainjob()
    assert crds.faults(job) == []
    template = job["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]
    (node,) = template["spec"]["replicatedJobs"]
    pod = node["template"]["spec"]["template"]["spec"]
    assert node["name"] == "node" and crds.faults(pod | {"kind": "Pod"})[1:] == []
    job["spec"]["trainer"]["numNode"] = job["spec"]["trainer"].pop("numNodes")
    assert len(crds.faults(job)) == 2


def test_the_trainjob_runs_the_stage_where_its_clone_is_mounted() -> None:
    trainer = trainjob()["spec"]["trainer"]
    assert trainer["command"][:2] == ["bash", "-c"]
    assert trainer["command"][2].endswith("exec torchrun --max-restarts=3 -m pipeline.train")
    assert (ROOT / "src" / "pipeline" / "train.py").is_file()
    assert "/workspace" in trainer["command"][2]


def test_the_script_for_slurm_is_bash_and_gives_what_the_stage_reads() -> None:
    script = LAUNCHERS / "slurm.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text(encoding="utf-8")
    exported = re.search(r"(?m)^export (.*)$", text)
    assert exported and {"MASTER_ADDR", "MASTER_PORT"} <= set(exported[1].split())
    assert re.search(r"(?m)^srun .* python -m pipeline\.train$", text)
    environment = {"MASTER_ADDR": "node-1", "MASTER_PORT": "20007", "SLURM_STEP_ID": "0"}
    ranks = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0"}
    place = find_place(environment | ranks)
    assert place and (place.rank, place.size) == (1, 2)
