"""Command: the image of a version, from a clean commit to a digest in the registry.

    python -m delivery.image build --version landcover@v1.2.0     its labels say what is in it
    python -m delivery.image scan                                 by trivy; exit 1 for a weakness
    python -m delivery.image push                                 prints name@sha256:...
    python -m delivery.image resolve --version landcover@v1.2.0   the same, of what was pushed

Environment: IMAGE names the repository in the registry (default localhost/landcover: stay here),
IMAGE_BUILD_ARGS holds more build arguments, `NAME=value` with spaces between. In a job of GitLab
CI_REGISTRY, CI_REGISTRY_USER and CI_REGISTRY_PASSWORD log in.

What build made stands in artifacts/image/image.json, where scan and push find it. A version whose
image was pushed from this commit, with this bundle, is not built again. An image has two tags: that
of the version, which moves when only code has changed, and one with the commit, which stays, so
that a registry that deletes what has no tag keeps what a rollback needs.
"""

import json
import os
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from contracts.tags import Version
from delivery.errors import GitError, ImageError, command
from delivery.git import Repository
from delivery.image.builders import Found, Recipe, choose_engine, is_local, stream
from delivery.image.preflight import check_bundle, clean_revision
from delivery.registry.registry import open_registry
from delivery.tags import parse_version

RECORD = Path("artifacts/image/image.json")
VERSION = "org.opencontainers.image.version"
REVISION = "org.opencontainers.image.revision"
BUNDLE = "io.conveyor.bundle.sha256"
_NAME_IT = "set IMAGE=registry/group/name"


@dataclass(frozen=True)
class Image:
    """An image, built here or found in the registry.

    `id` is empty for one that was found, `digest` for one that was not pushed. `size` counts bytes:
    all that it takes when it was built here, what is transferred when it was found.
    """

    image: str
    version: str
    revision: str
    bundle_sha256: str
    size: int
    id: str = ""
    digest: str = ""

    @property
    def reference(self) -> str:
        """How it is deployed: by digest."""
        return f"{self.image}@{self.digest}"

    @property
    def tags(self) -> tuple[str, ...]:
        """Its tags: the one that stays, then the one that moves; `train` has the first alone."""
        commit = self.revision[:12]
        if not self.version:
            return (commit,)
        text = parse_version(self.version).text
        return f"{text}-{commit}", text


def build(version: Version, name: str, arguments: Mapping[str, str]) -> Image:
    """Build the image of a version from HEAD, unless the registry has it.

    Raises:
        ImageError: what would go into it is not what HEAD and the version say.
        ToolError: there is nothing to build with.
    """
    repository = Repository()
    revision = clean_revision(repository)
    sha256 = check_bundle(repository, version)
    pushed = None if is_local(name) else _look(name, version)
    if pushed and (pushed.revision, pushed.bundle_sha256) == (revision, sha256):
        return pushed
    facts = {"VERSION": version.tag, "REVISION": revision, "BUNDLE_SHA256": sha256}
    wanted = {VERSION: version.tag, REVISION: revision, BUNDLE: sha256}
    made, size = _build(repository, "serve", {**arguments, **facts}, wanted)
    return Image(name, version.tag, revision, sha256, size, made)


def build_train(name: str, arguments: Mapping[str, str]) -> Image:
    """Build the image that jobs run in. It holds no code that could be of another commit."""
    repository = Repository()
    revision = clean_revision(repository)
    facts = {**arguments, "REVISION": revision}
    made, size = _build(repository, "train", facts, {REVISION: revision})
    return Image(name, "", revision, "", size, made)


def _build(
    repository: Repository, target: str, arguments: Mapping[str, str], labels: Mapping[str, str]
) -> tuple[str, int]:
    """Build; returns id and size. The labels are looked up: a cache may have its own view."""
    engine = choose_engine()
    created = repository.git("show", "--no-patch", "--format=%cI", "HEAD")
    made = engine.build(Recipe(target, {**arguments, "CREATED": created}))
    found = engine.inspect(made)
    for name, value in labels.items():
        if (said := found.labels.get(name)) != value:
            raise ImageError(
                f"the image's label {name} is {said!a}, not {value}: build without a cache"
            )
    return made, found.size


def scan(image: Image, folder: Path) -> None:
    """Look for known weaknesses that have a cure.

    Raises:
        ImageError: there are some, or it could not be found out.
        ToolError: trivy is not here.
    """
    words = ["--exit-code=1", "--severity=HIGH,CRITICAL", "--ignore-unfixed", "--scanners=vuln"]
    if not image.id:
        stream("trivy", "image", *words, image.reference)
        return
    archive = folder / "image.tar"
    try:
        choose_engine().save(image.id, archive)
        stream("trivy", "image", *words, f"--input={archive}")
    finally:
        archive.unlink(missing_ok=True)


def push(image: Image) -> Image:
    """Push what was built, unless it came from there.

    Raises:
        ImageError: the registry refuses, or has the image of a later commit already.
    """
    if image.digest:
        return image
    if is_local(image.image):
        raise ImageError(f"{image.image} belongs to this machine: {_NAME_IT}")
    _login(image.image)
    pushed = _look(image.image, parse_version(image.version)) if image.version else None
    if pushed and _is_later(pushed.revision, image.revision):
        raise ImageError(
            f"{image.revision[:12]} is outdated: the registry has the image of {image.version} "
            f"from {pushed.revision[:12]}, which came after it"
        )
    digest = choose_engine().push(image.id, image.image, image.tags)
    return replace(image, digest=digest)


def _is_later(pushed: str, ours: str) -> bool:
    try:
        return pushed != ours and Repository().is_ancestor(ours, pushed)
    except GitError:  # a commit that this clone has not: of another line
        return False


def find(version: Version, name: str = "") -> Image:
    """Return the image of a version that was pushed before, for a rollout or a rollback.

    Raises:
        ImageError: there is none, or the registry can not be asked.
    """
    name = name or image_name()
    if is_local(name):
        raise ImageError(f"{name} belongs to this machine: {_NAME_IT}")
    if (found := _look(name, version)) is None:
        raise ImageError(
            f"{name} has no image of {version.tag}: at its commit run make image "
            f"VERSION={version.tag}"
        )
    return found


def _look(name: str, version: Version) -> Image | None:
    _login(name)
    found = choose_engine().look(name, version.text)
    return _read(name, version, found) if found else None


def _read(name: str, version: Version, found: Found) -> Image:
    labels = found.labels
    if labels.get(VERSION) != version.tag:
        raise ImageError(
            f"{name}:{version.text} is labelled {labels.get(VERSION, '')[:64]!a}, not "
            f"{version.tag}: something else was pushed there; delete it in the registry"
        )
    revision, sha256 = labels.get(REVISION, ""), labels.get(BUNDLE, "")
    return Image(name, version.tag, revision, sha256, found.size, digest=found.digest)


def _login(name: str) -> None:
    host = os.environ.get("CI_REGISTRY", "")
    user, password = (os.environ.get(f"CI_REGISTRY_{what}", "") for what in ("USER", "PASSWORD"))
    if password and host and name.startswith(f"{host}/"):
        choose_engine().login(host, user, password)


def image_name() -> str:
    """The repository of the images, as the environment says."""
    return os.environ.get("IMAGE") or "localhost/landcover"


def read_record(path: Path) -> Image:
    """Read what build has written.

    Raises:
        ImageError: nothing was built.
    """
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        return Image(**{key: value for key, value in entry.items() if key != "reference"})
    except (OSError, ValueError, TypeError):
        raise ImageError(f"{path} is missing or broken: python -m delivery.image build") from None


def _write(image: Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    entry = asdict(image) | {"reference": image.reference if image.digest else ""}
    path.write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")


def _arguments(given: list[str]) -> dict[str, str]:
    words = [*os.environ.get("IMAGE_BUILD_ARGS", "").split(), *given]
    if wrong := next((word for word in words if not word.partition("=")[1]), ""):
        raise ImageError(f"build argument: {wrong!a} has no value: write NAME=value")
    pairs = (word.partition("=") for word in words)
    return {key: value for key, _, value in pairs}


@command
def main() -> None:
    """Do what the command line says."""
    options = _options()
    if options.command == "resolve":
        print(find(_version(options.version), options.image).reference)
    elif options.command == "build":
        _run_build(options)
    elif options.command == "scan":
        scan(read_record(options.output), options.output.parent)
    else:
        image = push(read_record(options.output))
        _write(image, options.output)
        print(image.reference)


def _version(text: str) -> Version:
    return parse_version(text, open_registry().name)


def _run_build(options: Namespace) -> None:
    arguments = _arguments(options.build_arg)
    if options.target == "train":
        image = build_train(options.image, arguments)
    else:
        image = build(_version(options.version), options.image, arguments)
    _write(image, options.output)
    size = f"{image.size / 2**20:.0f} MiB"
    known = f"{image.reference} is in the registry" if image.digest else f"built {image.id[:19]}"
    print(f"image: {known}, {size}; {options.output}")


def _options() -> Namespace:
    parser = ArgumentParser(
        prog="python -m delivery.image",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("build", help="build it, unless the registry has it")
    making.add_argument("--target", choices=("serve", "train"), default="serve")
    making.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    finding = commands.add_parser("resolve", help="print name@digest of a version")
    finding.add_argument("--version", required=True)
    making.add_argument("--version", default="")
    for each in (making, finding):
        each.add_argument("--image", default=image_name(), help="default: $IMAGE")
    scanning = commands.add_parser("scan", help="scan it with trivy")
    for each in (making, scanning, commands.add_parser("push", help="push it")):
        each.add_argument("--output", type=Path, default=RECORD, help=f"default {RECORD}")
    return parser.parse_args()


if __name__ == "__main__":
    main()
