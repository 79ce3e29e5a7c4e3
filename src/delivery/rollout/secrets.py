"""Command: write the secrets of a stage's pods into its namespace, from lines KEY=VALUE.

    python -m delivery.rollout.secrets staging --values ~/landcover-staging.env
    python -m delivery.rollout.secrets staging

The second line reads k8s/overlays/staging/secrets.sops.env, which SOPS has encrypted and Git keeps;
`sops` decrypts it with your key. The lines, of which all are optional:

    API_KEYS={"<hash>": ["predict", "view"]}     keys of the service: `python -m service key`
    GIT_USERNAME=...  GIT_PASSWORD=...           for a private repository: `make gitlab-setup`
    FEEDBACK_URL=postgresql://...                database of predictions and labels
    STREAM_CLIENT={"sasl.username": "..."}       settings of librdkafka for the brokers
    AWS_ACCESS_KEY_ID=...                        each variable of the DVC remote (AWS_, AZURE_, ...)

Values reach kubectl on standard input only. A secret without a line is left alone. `--print` prints
the objects instead, to encrypt or to seal them.

Environment: KUBE_CONTEXT (kubectl's context), SOPS_AGE_KEY_FILE and other variables of sops.
"""

import base64
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from contracts import commands
from contracts.tags import STAGES
from delivery.errors import RolloutError, ToolError, command, explain
from delivery.lines import read_lines
from delivery.rollout.cluster import Cluster
from delivery.rollout.manifests import NAME_LABEL, OVERLAYS, Document, to_yaml
from delivery.tags import model_name, parse_stage

ENCRYPTED = "secrets.sops.env"
KEYS = {
    "API_KEYS": "keys/api-keys",
    "GIT_USERNAME": "git/username",
    "GIT_PASSWORD": "git/password",
    "FEEDBACK_URL": "feedback/url",
    "STREAM_CLIENT": "stream/client",
}
"""Line -> secret of the pods, and its key, as the service reads it."""
REMOTE = re.compile(r"(AWS|AZURE|GDRIVE|GOOGLE|OSS)_[A-Z0-9_]+")
"""Lines that are variables of the DVC remote, under their own names."""
STAGES_AND_REVIEW = (*STAGES, "review")
HASH = re.compile(r"[0-9a-f]{64}")
ROLES = ("predict", "view", "label", "deploy", "train")
"""Of the service's keys; a test compares them with the service's own."""
DATABASE = re.compile(r"(postgres|postgresql|postgresql\+psycopg)://.")
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
    parser.add_argument("stage", help=f"one of {', '.join(STAGES_AND_REVIEW)}")
    parser.add_argument("--values", type=Path, metavar="FILE", help="lines that are not encrypted")
    parser.add_argument("--print", action="store_true", help="print the objects, apply nothing")
    arguments = parser.parse_args()
    parse_stage(arguments.stage, STAGES_AND_REVIEW)
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
    path = path.expanduser()  # not every shell expands VALUES=~/...
    try:
        text = path.read_text(encoding="utf-8")
        if path.is_file() and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            print(f"warning: others may read {path}: chmod 600 {path}", file=sys.stderr)
        return text
    except OSError as error:
        why = f"{str(path)!a} cannot be read ({error.strerror}): write its lines first"
        raise RolloutError(f"values: {why} (docs/kubernetes.md, Secrets)") from None
    except UnicodeDecodeError:
        raise RolloutError(f"values: {str(path)!a} is no text: write it in UTF-8") from None


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
    """The lines by key. One that was passed over would take its key out of the cluster.

    Raises:
        DeliveryError: one of them is unknown or cannot be right. The message has no value.
    """
    values = read_lines(text, str(path))
    for key in values:
        if key not in KEYS and not REMOTE.fullmatch(key):
            known = ", ".join(KEYS)
            raise RolloutError(f"{path}: {key[:64]!a} is no line of it: {known}, AWS_...")
    if not values:
        raise RolloutError(f"{path}: it has no line KEY=VALUE: write {', '.join(KEYS)}, AWS_...")
    if "API_KEYS" in values and (fault := _fault_of_keys(values["API_KEYS"])):
        raise RolloutError(f"{path}: API_KEYS {fault}")
    if "FEEDBACK_URL" in values and not DATABASE.match(values["FEEDBACK_URL"]):
        address = "postgresql://user:password@host/name"
        raise RolloutError(f"{path}: FEEDBACK_URL is no address of a database: write {address}")
    if "STREAM_CLIENT" in values and not _are_texts(values["STREAM_CLIENT"]):
        example = '{"sasl.username": "...", "sasl.password": "..."}'
        raise RolloutError(f"{path}: STREAM_CLIENT is no JSON of texts: write {example}")
    for one, other in (TOGETHER, TOGETHER[::-1]):
        if one in values and other not in values:
            raise RolloutError(f"{path}: {one} needs {other}: write both")
    return values


def _fault_of_keys(text: str) -> str:
    """What the service would refuse of its keys, with the cure and no part of them."""
    try:
        keys = json.loads(text)
    except (ValueError, RecursionError):
        keys = None
    lists = isinstance(keys, dict) and all(isinstance(it, list) for it in keys.values())
    if not isinstance(keys, dict) or not lists:
        return 'is no JSON such as {"<hash>": ["predict", "view"]}: correct it'
    if not all(map(HASH.fullmatch, keys)):
        return "has a key that is no hash of 64 digits: python -m service key prints one"
    if not all(role in ROLES for roles in keys.values() for role in roles):
        return f"has a role that is none of {', '.join(ROLES)}: correct it"
    return ""


def _are_texts(text: str) -> bool:
    """Whether it is a JSON object of texts, as the service wants it."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and all(isinstance(it, str) for it in found.values())


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


if __name__ == "__main__":
    main()
