"""Command: write objects to artifacts/manifests/<what>.yaml, to apply or commit; no cluster.

    python -m delivery.rollout.render setup      what an administrator applies: namespaces, rights
    python -m delivery.rollout.render review     the same for the review apps
    python -m delivery.rollout.render staging --version landcover@v1.2.0     what a rollout applies

With `--branch`, the file is also committed to a branch on origin, as <what>/objects.yaml, for
Argo CD or Flux. Every other file of the branch stays.

`--image` (name@sha256:...) replaces the pushed image of the version. Names are those of
`model.name` in params.yaml.

Environment: that of delivery.image; PUSH_URL, RELEASE_TOKEN (for --branch).
"""

import os
import re
from argparse import Namespace
from pathlib import Path

from contracts import commands
from contracts.tags import STAGES
from delivery.errors import RolloutError, command
from delivery.git import ORIGIN, Repository
from delivery.image.image import find
from delivery.rollout.manifests import Document, build, for_version, parse_image, render, to_yaml
from delivery.tags import model_name, parse_stage, parse_version

ADMINISTRATOR = {"setup": Path("k8s/setup"), "review": Path("k8s/overlays/review/namespace")}
KNOWN = (*STAGES, *ADMINISTRATOR)
MANIFESTS = Path("artifacts/manifests")
FILE = "objects.yaml"
BRANCH = re.compile(r"\w[\w-]{0,63}([/.]\w[\w-]{0,63}){0,7}", re.ASCII)


@command
def main() -> None:
    """Write one file."""
    parser = commands.parser("delivery.rollout.render", __doc__)
    parser.add_argument("what", help=f"one of {', '.join(KNOWN)}")
    parser.add_argument("--version", default="", help="of a stage: v1.2.0 or landcover@v1.2.0")
    parser.add_argument("--image", default="", help="of a stage: name@sha256:...")
    parser.add_argument("--branch", default="", help="commit it to this branch, too")
    arguments = parser.parse_args()
    parse_stage(arguments.what, KNOWN)
    path = MANIFESTS / f"{arguments.what}.yaml"
    text = to_yaml(_objects(arguments))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"render: kubectl apply --filename {path}")
    if arguments.branch:
        title = f"Render {arguments.what} {arguments.version}".strip()
        changed = publish(Repository(), arguments.branch, arguments.what, text, title)
        done = f"has {arguments.what}/{FILE}" if changed else "is unchanged"
        print(f"render: branch {arguments.branch} {done}")


def publish(repository: Repository, branch: str, folder: str, text: str, title: str) -> bool:
    """Commit a folder's objects to a branch of origin; False if it has them already.

    Raises:
        RolloutError: the name of the branch is malformed, or it has the project itself.
        GitError: origin refuses the push, or has a newer commit.
    """
    if not BRANCH.fullmatch(branch):
        raise RolloutError(f"branch: {branch[:64]!a} is not a name: write rendered, for example")
    git = repository.git
    head = repository.head_of(branch)
    if head:
        target = os.environ.get("PUSH_URL") or ORIGIN
        git("fetch", "--quiet", "--no-tags", "--end-of-options", target, head)
    entries = git("ls-tree", head).split("\n") if head else []
    if any(entry.endswith("\tdvc.yaml") for entry in entries):
        raise RolloutError(
            f"branch: {branch} has the project itself, and no objects: write rendered, for example"
        )
    blob = git("hash-object", "-w", "--stdin", stdin=text)
    tree = git("mktree", stdin=f"100644 blob {blob}\t{FILE}\n")
    kept = [entry for entry in entries if entry and entry.split("\t")[1] != folder]
    root = git(
        "mktree", stdin="".join(f"{it}\n" for it in [*kept, f"040000 tree {tree}\t{folder}"])
    )
    if head and root == git("rev-parse", f"{head}^{{tree}}"):
        return False
    parents = ["-p", head] if head else []
    commit = git("commit-tree", root, *parents, stdin=f"{title}\n")
    repository.push(f"{commit}:refs/heads/{branch}")
    return True


def _objects(arguments: Namespace) -> list[Document]:
    """The objects.

    Raises:
        DeliveryError: an argument is invalid, or kustomize refuses the files.
    """
    name = model_name()
    if arguments.what in ADMINISTRATOR:
        if arguments.version or arguments.image:
            raise RolloutError(f"version: {arguments.what} has no image: leave it out")
        return build(ADMINISTRATOR[arguments.what], name)
    if not arguments.version:
        raise RolloutError(f"version: missing: VERSION={name}@v1.2.0 is to serve {arguments.what}")
    version = parse_version(arguments.version, name)
    image = parse_image(arguments.image) if arguments.image else find(version).reference
    return for_version(render(arguments.what, name), version, image)


if __name__ == "__main__":
    main()
