"""The image builders: BuildKit at BUILDKIT_HOST, else buildah, else Docker; skopeo for registries.

A name such as `localhost/landcover` is local to this machine. A registry on loopback is accessed
over plain HTTP, as Docker does.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen
from typing import Any, NamedTuple, Protocol

from delivery.errors import ImageError, ToolError, explain

_ABSENT = ("manifest unknown", "name unknown", "not known to registry", "manifest_unknown")
_LOOPBACK = re.compile(r"(localhost|127\.[0-9.]+|\[::1\]):[0-9]+/")
_TEXT: dict[str, Any] = {"text": True, "errors": "replace"}
KEPT_LINES = 500  # of a program's output, for its errors
CURES = {
    "[Uu]nauthorized|denied: |authentication required|insufficient_scope": (
        "log in to the registry, or let this account write there (CI_REGISTRY_USER and "
        "CI_REGISTRY_PASSWORD in the pipeline)"
    ),
    "no space left|disk quota": "free some space: buildah prune --all, or docker system prune",
    "newuidmap|unshare|CLONE_NEWUSER|operation not permitted": (
        "in a container without privileges set BUILDAH_ISOLATION=chroot and STORAGE_DRIVER=vfs"
    ),
    "docker daemon|docker.sock": "start Docker, and let this user talk to it",
    "toomanyrequests": "log in to the registry of the base image, or take a mirror of it",
    "x509|certificate": "give this machine the certificate of the registry's authority",
    "no such host|connection refused|i/o timeout|name resolution|unreachable": (
        "check the network, HTTPS_PROXY and the name of the registry"
    ),
    "No matching distribution|Could not find a version": (
        "the index that pip reads in the build lacks the package"
    ),
}
"""Words in a builder's errors -> what to do. The first match counts."""
TIME = 315532800
"""Unix time of every image and every file in it: the start of 1980, the earliest that zip files
support. It is the same for all commits; else an unchanged layer would get a new digest with each
release, and buildah, whose cache ignores the time, would mix several. The commit's time is a
label."""


class Recipe(NamedTuple):
    """The target and arguments of a build."""

    target: str
    arguments: Mapping[str, str]
    fresh: bool = False
    """Without layers of earlier builds, so that Debian's updates of the day come in."""


class Built(NamedTuple):
    """An image on this machine."""

    labels: Mapping[str, str]
    size: int
    """Bytes, including the base image."""


class Found(NamedTuple):
    """An image in a registry."""

    digest: str
    labels: Mapping[str, str]
    size: int
    """Bytes, compressed."""


ARCHIVES = Path("artifacts/image")
"""Where BuildKit's archives lie."""


class Builder(Protocol):
    """Builds, inspects and pushes images."""

    def build(self, recipe: Recipe) -> str:
        """Build from the Dockerfile of the working directory; returns the image's id."""

    def inspect(self, image: str) -> Built:
        """Labels and size of a built image."""

    def save(self, image: str, archive: Path) -> None:
        """Write a built image as an archive for scanners."""

    def push(self, image: str, name: str, tags: tuple[str, ...]) -> str:
        """Push a built image under several tags, the last one last; returns its digest."""

    def lookup(self, name: str, tag: str) -> Found | None:
        """Find the image of a tag in the registry; None without one."""

    def login(self, host: str, user: str, password: str) -> None:
        """Log in to a registry."""


def choose_builder() -> Builder:
    """Return the builder of this machine.

    Raises:
        ToolError: none is installed.
    """
    if os.environ.get("BUILDKIT_HOST"):
        return Buildkit()
    if shutil.which("buildah"):
        return Buildah()
    if shutil.which("docker"):
        return Docker()
    raise ToolError("neither buildah nor docker is installed: apt-get install buildah skopeo")


def require_namespaces() -> None:
    """Refuse a machine where buildah cannot work: it mounts in namespaces of its own.

    A container of Docker may not make them, if its runner was registered as GitLab describes it.

    Raises:
        ToolError: the kernel or the container's runtime forbids it; the message has the cures.
    """
    for words in (("--mount",), ("--map-root-user", "--mount")):
        try:
            run("unshare", *words, "true")
            return
        except ImageError as error:
            cause = error
    raise ToolError(
        f"buildah may not create namespaces here ({cause}): in the runner's config.toml, set "
        'privileged = true, or security_opt = ["seccomp:unconfined", "apparmor:unconfined"], and '
        "BUILD_RUNNER_TAG to its tag; or set BUILDKIT_HOST (docs/gitlab-setup.md)"
    )


def is_local(name: str) -> bool:
    """Whether a name is local to this machine and names no registry."""
    return name.startswith("localhost/") or "/" not in name


class Buildah:
    """buildah builds without a daemon, skopeo accesses registries.

    They read BUILDAH_ISOLATION and STORAGE_DRIVER: an unprivileged container needs `chroot` and
    `vfs`.
    """

    def build(self, recipe: Recipe) -> str:
        """See Builder.

        Raises:
            ToolError: this machine forbids the namespaces that buildah needs.
        """
        require_namespaces()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "id")
            words = ["--no-cache"] if recipe.fresh else []
            words += ["--layers", f"--timestamp={TIME}", f"--target={recipe.target}"]
            words += [f"--build-arg={key}={value}" for key, value in recipe.arguments.items()]
            stream("buildah", "build", *words, f"--iidfile={file}", ".")
            return file.read_text(encoding="ascii").strip()

    def inspect(self, image: str) -> Built:
        """See Builder."""
        found = json.loads(run("buildah", "inspect", "--type=image", image))
        size = sum(int(layer["size"]) for layer in json.loads(found["Manifest"])["layers"])
        return Built(found["OCIv1"]["config"].get("Labels") or {}, size)

    def save(self, image: str, archive: Path) -> None:
        """See Builder."""
        stream("buildah", "push", "--quiet", image, f"docker-archive:{archive}")

    def push(self, image: str, name: str, tags: tuple[str, ...]) -> str:
        """See Builder. Later tags are copied in the registry, so that all have one digest."""
        digest = self._push_first(image, f"docker://{name}:{tags[0]}", name)
        secure = (*_tls("src-tls-verify", name), *_tls("dest-tls-verify", name))
        for tag in tags[1:]:
            source, target = f"docker://{name}@{digest}", f"docker://{name}:{tag}"
            stream("skopeo", "copy", "--quiet", *secure, source, target)
        return digest

    def _push_first(self, image: str, target: str, name: str) -> str:
        """Push under the first tag; returns the digest."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "digest")
            words = ("push", f"--digestfile={file}", *_tls("tls-verify", name), image, target)
            stream("buildah", *words)
            return file.read_text(encoding="ascii").strip()

    def lookup(self, name: str, tag: str) -> Found | None:
        """See Builder."""
        words = ("inspect", *_tls("tls-verify", name))
        try:
            found = json.loads(run("skopeo", *words, "--no-tags", f"docker://{name}:{tag}"))
            manifest = json.loads(run("skopeo", *words, "--raw", f"docker://{name}:{tag}"))
        except ImageError as error:
            if _is_absence(error):
                return None
            raise
        size = sum(int(layer["size"]) for layer in manifest.get("layers", ()))
        return Found(found["Digest"], found.get("Labels") or {}, size)

    def login(self, host: str, user: str, password: str) -> None:
        """See Builder. buildah and skopeo read the same file of credentials."""
        run("skopeo", "login", f"--username={user}", "--password-stdin", host, stdin=password)


class Buildkit(Buildah):
    """BuildKit elsewhere, such as a rootless one in the cluster: the runner needs no rights at all.

    buildctl sends the context to the daemon at BUILDKIT_HOST and gets an archive; skopeo reads and
    pushes it. The id of an image is the name of its archive.
    """

    def build(self, recipe: Recipe) -> str:
        """See Builder. All files get one time, as with buildah."""
        archive = ARCHIVES / f"{recipe.target}.tar"
        archive.parent.mkdir(parents=True, exist_ok=True)
        arguments = {**recipe.arguments, "SOURCE_DATE_EPOCH": str(TIME)}
        words = ["--frontend=dockerfile.v0", "--local=context=.", "--local=dockerfile=."]
        words += [f"--opt=target={recipe.target}"]
        words += [f"--opt=build-arg:{key}={value}" for key, value in arguments.items()]
        words += ["--no-cache"] if recipe.fresh else []
        stream(
            "buildctl", "build", *words, f"--output=type=oci,dest={archive},rewrite-timestamp=true"
        )
        return f"oci-archive:{archive}"

    def inspect(self, image: str) -> Built:
        """See Builder. The size is compressed."""
        config = json.loads(run("skopeo", "inspect", "--config", image))
        manifest = json.loads(run("skopeo", "inspect", "--raw", image))
        size = sum(int(layer["size"]) for layer in manifest["layers"])
        return Built(config.get("config", {}).get("Labels") or {}, size)

    def save(self, image: str, archive: Path) -> None:
        """See Builder. trivy does not read the archives of OCI, but those of Docker."""
        stream("skopeo", "copy", "--quiet", image, f"docker-archive:{archive}")

    def _push_first(self, image: str, target: str, name: str) -> str:
        """Push under the first tag; returns the digest."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "digest")
            secure = _tls("dest-tls-verify", name)
            stream("skopeo", "copy", "--quiet", *secure, f"--digestfile={file}", image, target)
            return file.read_text(encoding="ascii").strip()

    def login(self, host: str, user: str, password: str) -> None:
        """See Builder. buildctl shows BuildKit what Docker's file has, which skopeo reads, too."""
        file = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker", "config.json")
        words = (f"--authfile={file}", f"--username={user}", "--password-stdin", host)
        run("skopeo", "login", *words, stdin=password)


class Docker:
    """Docker with BuildKit."""

    def build(self, recipe: Recipe) -> str:
        """See Builder. Docker sets the time of the image, not of its files (docs/images.md)."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "id")
            arguments = {"SOURCE_DATE_EPOCH": str(TIME), **recipe.arguments}
            words = [f"--build-arg={key}={value}" for key, value in arguments.items()]
            words += [f"--target={recipe.target}", f"--iidfile={file}"]
            words += ["--no-cache"] if recipe.fresh else []
            stream("docker", "build", *words, ".")
            return file.read_text(encoding="ascii").strip()

    def inspect(self, image: str) -> Built:
        """See Builder."""
        found = self._inspect(image)
        return Built(found["Config"].get("Labels") or {}, int(found["Size"]))

    def save(self, image: str, archive: Path) -> None:
        """See Builder."""
        stream("docker", "save", f"--output={archive}", image)

    def push(self, image: str, name: str, tags: tuple[str, ...]) -> str:
        """See Builder."""
        for tag in tags:
            run("docker", "tag", image, f"{name}:{tag}")
            stream("docker", "push", "--quiet", f"{name}:{tag}")
        return self._digest(self._inspect(f"{name}:{tags[-1]}"), name)

    def lookup(self, name: str, tag: str) -> Found | None:
        """See Builder. Docker has to pull the image to inspect it."""
        try:
            run("docker", "pull", "--quiet", f"{name}:{tag}")
        except ImageError as error:
            if _is_absence(error):
                return None
            raise
        found = self._inspect(f"{name}:{tag}")
        labels = found["Config"].get("Labels") or {}
        return Found(self._digest(found, name), labels, int(found["Size"]))

    def login(self, host: str, user: str, password: str) -> None:
        """See Builder."""
        run("docker", "login", f"--username={user}", "--password-stdin", host, stdin=password)

    def _inspect(self, image: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(run("docker", "image", "inspect", image))[0]
        return found

    def _digest(self, found: Mapping[str, Any], name: str) -> str:
        for reference in found.get("RepoDigests", ()):
            if reference.startswith(f"{name}@"):
                return str(reference).partition("@")[2]
        raise ImageError(f"{name}: docker does not know its digest in the registry: push it again")


def stream(program: str, *words: str, passing: tuple[int, ...] = (0,)) -> int:
    """Run a program that shows its progress on stderr; returns its exit code, one that passes.

    Raises:
        ToolError: it is not installed.
        ImageError: it failed.
    """
    command, printed = [program, *words], deque[str](maxlen=KEPT_LINES)
    try:
        with Popen(command, stdout=PIPE, stderr=STDOUT, env=_environment(), **_TEXT) as process:
            for line in process.stdout or ():
                sys.stderr.write(line)
                printed.append(line)
    except FileNotFoundError:
        raise ToolError(f"{program} is not installed: {_cure(program)}") from None
    if process.returncode not in passing:
        why = explain("".join(printed), CURES, otherwise="see above")
        raise ImageError(f"{program} {words[0]} failed with {process.returncode}: {why}")
    return process.returncode


def run(program: str, *words: str, stdin: str | None = None) -> str:
    """Run a program; returns its output.

    Raises:
        ToolError: it is not installed.
        ImageError: it failed, with its errors.
    """
    try:
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [program, *words], input=stdin, capture_output=True, env=_environment(), **_TEXT
        )
    except FileNotFoundError:
        raise ToolError(f"{program} is not installed: {_cure(program)}") from None
    if done.returncode != 0:
        raise ImageError(f"{program} {words[0]}: {explain(done.stderr or done.stdout, CURES)}")
    return done.stdout


def _environment() -> dict[str, str]:
    return os.environ | {"LC_ALL": "C.UTF-8"}


def _cure(program: str) -> str:
    if program == "trivy":
        return "see https://trivy.dev; nothing is released without a scan"
    if program == "buildctl":
        return "ci/install buildctl"
    return f"apt-get install {'util-linux' if program == 'unshare' else program}"


def _tls(option: str, name: str) -> tuple[str, ...]:
    return (f"--{option}=false",) if _LOOPBACK.match(name) else ()


def _is_absence(error: ImageError) -> bool:
    return any(sign in str(error).lower() for sign in _ABSENT)
