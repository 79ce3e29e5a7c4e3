"""Command: write the secrets of a stage's pods into its namespace, from lines KEY=VALUE.

    python -m delivery.rollout.secrets staging --values ~/landcover-staging.env
    python -m delivery.rollout.secrets staging

The second line reads k8s/overlays/staging/secrets.sops.env, which SOPS has encrypted and Git keeps;
`sops` decrypts it with your key. The lines, of which all are optional:

    API_KEYS={"<hash>": ["predict", "view"]}     keys of the service: `python -m service key`
    GIT_USERNAME=...  GIT_PASSWORD=...           for a private repository: `make gitlab-setup`
    FEEDBACK_URL=postgresql://...                database of predictions and labels
    AWS_ACCESS_KEY_ID=...                        each variable of the DVC remote (AWS_, AZURE_, ...)

Values reach kubectl on standard input only. A secret without a line is left alone. `--print` prints
the objects instead, to encrypt or to seal them.

Environment: KUBE_CONTEXT (kubectl's context), SOPS_AGE_KEY_FILE and other variables of sops.
"""

import base64
import io
import json
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values

from contracts import commands
from contracts.tags import STAGES
from delivery.errors import RolloutError, ToolError, command, explain
from delivery.rollout.cluster import Cluster
from delivery.rollout.manifests import NAME_LABEL, OVERLAYS, Document, to_yaml
from delivery.tags import model_name

ENCRYPTED = "secrets.sops.env"
KEYS = {
    "API_KEYS": "keys/api-keys",
    "GIT_USERNAME": "git/username",
    "GIT_PASSWORD": "git/password",
    "FEEDBACK_URL": "feedback/url",
}
"""Line -> secret of the pods, and its key, as the service reads it."""
REMOTE = re.compile(r"(AWS|AZURE|GDRIVE|GOOGLE|OSS)_[A-Z0-9_]+")
"""Lines that are variables of the DVC remote, under their own names."""
MANAGER = "conveyor-secrets"
TOGETHER = ("GIT_USERNAME", "GIT_PASSWORD")
CURES = {
    "data key|age|identit": "name the file of your age key in SOPS_AGE_KEY_FILE",
    "metadata not found": "encrypt it first: sops encrypt (docs/kubernetes.md)",
}
"""Words in the errors of sops -> what to do."""


@command
def main() -> None:
    """Write the secrets, or print them."""
    parser = commands.parser("delivery.rollout.secrets", __doc__)
    parser.add_argument("stage", choices=(*STAGES, "review"))
    parser.add_argument("--values", type=Path, metavar="FILE", help="lines that are not encrypted")
    parser.add_argument("--print", action="store_true", help="print the objects, apply nothing")
    arguments = parser.parse_args()
    name = model_name()
    path = arguments.values or OVERLAYS / arguments.stage / ENCRYPTED
    text = _plain(path) if arguments.values else decrypt(path, arguments.stage)
    found = secrets(name, f"{name}-{arguments.stage}", read(text, path))
    if arguments.print:
        print(to_yaml(found), end="")
        return
    # On the server: what `kubectl apply` itself stores of an object would be a copy of the secret.
    words = ("--server-side", "--force-conflicts", f"--field-manager={MANAGER}", "--validate=false")
    cluster = Cluster(f"{name}-{arguments.stage}", name, os.environ.get("KUBE_CONTEXT", ""))
    cluster.call("apply", *words, "--filename=-", stdin=to_yaml(found))
    for item in found:
        print(f"secrets: {item['metadata']['name']} has {', '.join(sorted(item['data']))}")
    print("secrets: running pods read them within two minutes; nothing has to be restarted")


def _plain(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise RolloutError(f"values: {str(path)!a} cannot be read: give a file of text") from None


def decrypt(path: Path, stage: str) -> str:
    """The lines of a file that SOPS has encrypted.

    Raises:
        RolloutError: it is not there, or the key is.
        ToolError: sops is not installed.
    """
    if not path.is_file():
        raise RolloutError(
            f"{path}: not found: make it with sops (docs/kubernetes.md), or give a file: "
            f"make secrets STAGE={stage} VALUES=~/secrets.env"
        )
    words = ["sops", "decrypt", "--input-type=dotenv", "--output-type=dotenv", str(path)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ToolError("sops: not found: install sops 3.9 or newer") from None
    if done.returncode != 0:
        raise RolloutError(f"{path}: {explain(done.stderr, CURES)}")
    return done.stdout


def read(text: str, path: Path) -> dict[str, str]:
    """The lines by key.

    Raises:
        RolloutError: one of them is unknown or cannot be right. The message has no value.
    """
    stored = dotenv_values(stream=io.StringIO(text), interpolate=False)
    values = {key: value for key, value in stored.items() if value}
    for key in values:
        if key not in KEYS and not REMOTE.fullmatch(key):
            known = ", ".join(KEYS)
            raise RolloutError(f"{path}: {key[:64]!a} is no line of it: {known}, AWS_...")
    if not values:
        raise RolloutError(f"{path}: it has no line KEY=VALUE: write {', '.join(KEYS)}, AWS_...")
    if "API_KEYS" in values and not _is_mapping(values["API_KEYS"]):
        example = '{"<hash>": ["predict", "view"]}'
        raise RolloutError(f"{path}: API_KEYS is no JSON such as {example}: correct it")
    for one, other in (TOGETHER, TOGETHER[::-1]):
        if one in values and other not in values:
            raise RolloutError(f"{path}: {one} needs {other}: write both")
    return values


def secrets(name: str, namespace: str, values: Mapping[str, str]) -> list[Document]:
    """The Secrets that the pods of a model mount."""
    content: dict[str, dict[str, str]] = {}
    for line, value in values.items():
        secret, _, key = KEYS.get(line, f"remote/{line}").partition("/")
        content.setdefault(secret, {})[key] = value
    labels = {NAME_LABEL: name, "app.kubernetes.io/part-of": "conveyor"}
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": f"{name}-{it}", "namespace": namespace, "labels": labels},
            # No stringData: a key that is taken out of it would stay on the server.
            "data": {key: _encoded(value) for key, value in content[it].items()},
        }
        for it in sorted(content)
    ]


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _is_mapping(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


if __name__ == "__main__":
    main()
