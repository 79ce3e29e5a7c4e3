"""Build, scan, push and find the image of a version: the service and its model bundle."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from contracts.tags import Version
from delivery.errors import GitError, ImageError, Outdated, VulnerableError
from delivery.git import Repository
from delivery.image.builders import Recipe, choose_builder, is_local, stream
from delivery.image.preflight import check_bundle, clean_revision, has_same_ingredients
from delivery.tags import model_name, parse_version

RECORD = Path("artifacts/image/image.json")
VERSION = "org.opencontainers.image.version"
REVISION = "org.opencontainers.image.revision"
BUNDLE = "io.conveyor.bundle.sha256"
RUNTIME = "io.conveyor.runtime"
EXTRAS = "io.conveyor.extras"
CPU = "cpu"
SERVING = "registry,stream"  # extras of the Dockerfile
_FOUND = 9  # how trivy is to end when it has found something; with 1 it has failed
_SET_IMAGE = "set IMAGE=registry/group/name"


@dataclass(frozen=True)
class Image:
    """An image, built on this machine or found in the registry.

    `id` is empty for a found image, `digest` for one that was not pushed. `size` is in bytes:
    uncompressed for a built image, compressed for a found one.
    """

    image: str
    version: str
    revision: str
    bundle_sha256: str
    size: int
    id: str = ""
    digest: str = ""
    torch: str = ""
    """Build of torch in the image `train`: cpu or cuda."""
    runtime: str = CPU
    """Build of ONNX Runtime: cpu or cuda."""
    extras: str = SERVING
    """What the service can do: extras of pyproject.toml, with commas."""

    @property
    def reference(self) -> str:
        """The name that deployments use: by digest."""
        return f"{self.image}@{self.digest}"

    @property
    def tags(self) -> tuple[str, ...]:
        """The tag that never moves, then the one that moves; `train` has one that moves."""
        if not self.version:
            return (self.torch,)
        text = parse_version(self.version).text
        return f"{text}-{self.revision[:12]}", text


def build(version: Version, name: str, arguments: Mapping[str, str], fresh: bool = False) -> Image:
    """Build the image of a version from HEAD, unless the registry has one of the same ingredients.

    A fresh one is built in any case, without layers of earlier builds.

    Raises:
        ImageError: its inputs do not match HEAD and the version.
        ToolError: no builder is installed.
    """
    repository = Repository()
    revision = clean_revision(repository)
    sha256 = check_bundle(repository, version)
    pushed = None if fresh or is_local(name) else _lookup(name, version)
    runtime, extras = arguments.get("RUNTIME", CPU), arguments.get("EXTRAS", SERVING)
    made_of = (sha256, runtime, extras)
    if pushed and (pushed.bundle_sha256, pushed.runtime, pushed.extras) == made_of:
        if has_same_ingredients(repository, pushed.revision):
            return pushed
    facts = {"VERSION": version.tag, "REVISION": revision, "BUNDLE_SHA256": sha256}
    labels = {VERSION: version.tag, REVISION: revision, BUNDLE: sha256}
    labels |= {RUNTIME: runtime, EXTRAS: extras}
    made, size = _build(repository, Recipe("serve", {**arguments, **facts}, fresh), labels)
    return Image(name, version.tag, revision, sha256, size, made, runtime=runtime, extras=extras)


def build_train(name: str, arguments: Mapping[str, str]) -> Image:
    """Build the image that jobs run in. It contains no code, which could be of another commit."""
    repository = Repository()
    revision = clean_revision(repository)
    facts = {"TORCH": "cuda", **arguments, "REVISION": revision}
    made, size = _build(repository, Recipe("train", facts), {REVISION: revision})
    return Image(name, "", revision, "", size, made, torch=facts["TORCH"])


def _build(repository: Repository, recipe: Recipe, labels: Mapping[str, str]) -> tuple[str, int]:
    """Build; returns id and size. A stale cache could yield other labels, so they are checked."""
    builder = choose_builder()
    _login_to_mirror(recipe.arguments.get("IMAGE_PREFIX", ""))
    created = repository.git("show", "--no-patch", "--format=%cI", "HEAD")
    made = builder.build(recipe._replace(arguments={**recipe.arguments, "CREATED": created}))
    found = builder.inspect(made)
    for name, value in labels.items():
        if (actual := found.labels.get(name)) != value:
            raise ImageError(
                f"the image's label {name} is {actual!a}, not {value}: build without a cache"
            )
    return made, found.size


def scan(image: Image, folder: Path) -> None:
    """Scan for known vulnerabilities that have a fix.

    Raises:
        VulnerableError: trivy found some.
        ImageError: trivy failed.
        ToolError: trivy is not installed.
    """
    words = [
        f"--exit-code={_FOUND}",
        "--severity=HIGH,CRITICAL",
        "--ignore-unfixed",
        "--scanners=vuln",
    ]
    if not image.id:
        _scan(*words, image.reference)
        return
    archive = folder / "image.tar"
    try:
        choose_builder().save(image.id, archive)
        _scan(*words, f"--input={archive}")
    finally:
        archive.unlink(missing_ok=True)


def _scan(*words: str) -> None:
    if stream("trivy", "image", *words, passing=(0, _FOUND)) == _FOUND:
        raise VulnerableError("trivy found known vulnerabilities that updates fix: see above")


def push(image: Image) -> Image:
    """Push a built image; one that was found in the registry is returned unchanged.

    Raises:
        ImageError: the registry refuses.
        Outdated: it has the image of a later commit.
    """
    if image.digest:
        return image
    if is_local(image.image):
        raise ImageError(f"{image.image} is local to this machine: {_SET_IMAGE}")
    _login(image.image)
    pushed = _lookup(image.image, parse_version(image.version)) if image.version else None
    if pushed and _is_later(pushed.revision, image.revision):
        raise Outdated(
            f"{image.revision[:12]} is outdated: the registry has the image of {image.version} "
            f"from {pushed.revision[:12]}, which is later"
        )
    digest = choose_builder().push(image.id, image.image, image.tags)
    return replace(image, digest=digest)


def _is_later(pushed: str, ours: str) -> bool:
    try:
        return pushed != ours and Repository().is_ancestor(ours, pushed)
    except GitError:  # this clone does not have the commit: it is of another branch
        return False


def find(version: Version, name: str = "") -> Image:
    """Return the pushed image of a version, for a rollout or a rollback.

    Raises:
        ImageError: it does not exist, or the registry cannot be reached.
    """
    name = name or image_name()
    if is_local(name):
        raise ImageError(f"{name} is local to this machine: {_SET_IMAGE}")
    if (found := _lookup(name, version)) is None:
        raise ImageError(
            f"{name} has no image of {version.tag}: at its commit run make image "
            f"VERSION={version.tag}"
        )
    return found


def _lookup(name: str, version: Version) -> Image | None:
    _login(name)
    found = choose_builder().lookup(name, version.text)
    if found is None:
        return None
    labels = found.labels
    if labels.get(VERSION) != version.tag:
        raise ImageError(
            f"{name}:{version.text} is labelled {labels.get(VERSION, '')[:64]!a}, not "
            f"{version.tag}: another image was pushed there; delete it in the registry"
        )
    revision, sha256 = labels.get(REVISION, ""), labels.get(BUNDLE, "")
    return Image(
        *(name, version.tag, revision, sha256, found.size),
        digest=found.digest,
        runtime=labels.get(RUNTIME, CPU),
        extras=labels.get(EXTRAS, SERVING),  # those of before have no such label
    )


def _login(name: str) -> None:
    _login_to(name, "CI_REGISTRY", "CI_REGISTRY")


def _login_to_mirror(prefix: str) -> None:
    """Log in where bases come from, if that is the dependency proxy of this job's GitLab."""
    _login_to(prefix, "CI_DEPENDENCY_PROXY_SERVER", "CI_DEPENDENCY_PROXY")


def _login_to(name: str, host_variable: str, variables: str) -> None:
    host = os.environ.get(host_variable, "")
    user, password = (os.environ.get(f"{variables}_{what}", "") for what in ("USER", "PASSWORD"))
    if password and host and name.startswith(f"{host}/"):
        choose_builder().login(host, user, password)


def image_name() -> str:
    """The repository of the images, from the environment; else one of this machine."""
    return os.environ.get("IMAGE") or f"localhost/{model_name()}"


def read_record(path: Path) -> Image:
    """Read the record of a build.

    Raises:
        ImageError: the record is missing.
    """
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        return Image(**{key: value for key, value in entry.items() if key != "reference"})
    except (OSError, ValueError, TypeError):
        raise ImageError(f"{path} is missing or broken: python -m delivery.image build") from None


def write_record(image: Image, path: Path) -> None:
    """Write the record of a build or a push."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entry = asdict(image) | {"reference": image.reference if image.digest else ""}
    path.write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
