"""What a program printed, as one sentence."""

import io
import sys

import pytest

from delivery import dvc, errors
from delivery.errors import LONGEST, explain, reason
from delivery.image import builders
from delivery.rollout import cluster
from pipeline import errors as pipeline_errors

OUTPUTS = {
    "ERROR: no credentials\n\nHaving any troubles? Hit us up at https://dvc.org/support": (
        "no credentials"
    ),
    'Error from server (Forbidden): pods is forbidden\nSee "kubectl get --help"\n': (
        "Error from server (Forbidden): pods is forbidden"
    ),
    "The connection to the server localhost:8080 was refused\n": (
        "The connection to the server localhost:8080 was refused"
    ),
    "STEP 1\nError: no space left on device\nerror: exit status 125\nERROR: exit status 125": (
        "no space left on device; exit status 125"
    ),
    'time="2026-11-29T00:00:00Z" level=fatal msg="reading manifest: denied"': (
        "reading manifest: denied"
    ),
    "2026-11-29T00:00:00Z\tFATAL\tFatal error\tno database": "Fatal error no database",
    "  \n\n": "failed without a message",
    "fatal: \x1b[31mred\x1b[0m": " [31mred [0m",
}


def test_the_reason_is_the_errors_that_a_program_printed() -> None:
    assert {output: reason(output) for output in OUTPUTS} == OUTPUTS


@pytest.mark.parametrize("output", ["x" * 10_000, "error: " + "y" * 10_000])
def test_a_reason_is_short(output: str) -> None:
    assert len(reason(output)) == LONGEST


# What the programs print, by a part of the cure that has to follow. Git's own are in test_git.py.
CAUSES = {
    cluster: {
        "The connection to the server localhost:8080 was refused": "KUBE_CONTEXT",
        'error: context "x" does not exist': "KUBE_CONTEXT",
        "error: You must be logged in to the server (Unauthorized)": "renew the credentials",
        'Error from server (Forbidden): pods is forbidden: User "x" cannot list': "deployer.yaml",
        "Error from server (Forbidden): exceeded quota: compute": "raise the quota",
        'Error from server (NotFound): namespaces "stage" not found': "create the namespace",
        "Unable to connect to the server: x509: certificate signed by unknown": "certificate of",
        "Unable to connect to the server: dial tcp: lookup k8s: no such host": "check the network",
    },
    builders: {
        "Error: writing blob: unauthorized: access token has insufficient scope": "log in to",
        "denied: requested access to the resource is denied": "log in to the registry",
        "Error: writing blob: no space left on device": "buildah prune --all",
        "Error: cannot find newuidmap: exec: not found": "BUILDAH_ISOLATION=chroot",
        "ERROR: Cannot connect to the Docker daemon at unix:///var/run/docker.sock": "start Docker",
        "Error: toomanyrequests: You have reached your pull rate limit": "mirror",
        "Error: pinging container registry x: dial tcp: lookup x: no such host": "the network",
        "ERROR: No matching distribution found for numpy==9": "index that pip",
    },
    dvc: {
        "ERROR: failed to pull: [Errno 13] Permission denied: '/cache'": "another cache.dir",
        "ERROR: storageQuotaExceeded": "Shared Drive",
    },
}


def test_a_cause_is_followed_by_its_cure() -> None:
    found = {
        output: explain(output, module.CURES)
        for module, outputs in CAUSES.items()
        for output in outputs
    }
    wanted = {output: cure for outputs in CAUSES.values() for output, cure in outputs.items()}
    without = [said for output, said in found.items() if wanted[output] not in said]
    assert without == []
    assert all(reason(output).rstrip(".") in said for output, said in found.items())


def test_a_terminal_without_a_letter_shows_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    for command in (errors.command, pipeline_errors.command):
        written = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "latin-1"))
        command(lambda: print("✅ Forêt", flush=True))()
        assert written.getvalue() == b"\\u2705 For\xeat\n"
