"""The programs that build and move images: buildah with skopeo, or Docker where only that is there.

Both do the same for `delivery.image`. A name such as `localhost/landcover` means this machine
alone; a registry on loopback is spoken to over plain HTTP, as Docker does it.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from delivery.errors import ImageError, ToolError

_ABSENT = ("manifest unknown", "name unknown", "not known to registry", "manifest_unknown")
_LOOPBACK = re.compile(r"(localhost|127\.[0-9.]+|\[::1\]):[0-9]+/")


TIME = 315532800
"""Unix time that every image and every file in it gets, the start of 1980, before which zip files
know none. The same for all commits: else a layer that has not changed would be another one with
each release, and buildah, whose cache does not look at the time, would mix several. The time of the
commit is a label."""


class Recipe(NamedTuple):
    """What a build is made of."""

    target: str
    arguments: Mapping[str, str]


class Built(NamedTuple):
    """An image on this machine."""

    labels: Mapping[str, str]
    size: int
    """Bytes that it takes, its base included."""


class Found(NamedTuple):
    """An image in a registry."""

    digest: str
    labels: Mapping[str, str]
    size: int
    """Bytes that are transferred: compressed."""


class Engine(Protocol):
    """What an image is built, looked at and pushed with."""

    def build(self, recipe: Recipe) -> str:
        """Build from the Dockerfile of the working directory; returns the image's id."""

    def inspect(self, image: str) -> Built:
        """What a built image is."""

    def save(self, image: str, archive: Path) -> None:
        """Write a built image as the archive that scanners read."""

    def push(self, image: str, name: str, tags: tuple[str, ...]) -> str:
        """Push a built image under several tags, the last one last; returns its digest."""

    def look(self, name: str, tag: str) -> Found | None:
        """What the registry has under a tag; None when it has nothing."""

    def login(self, host: str, user: str, password: str) -> None:
        """Log in to a registry."""


def choose_engine() -> Engine:
    """Return what this machine has.

    Raises:
        ToolError: it has neither.
    """
    if shutil.which("buildah"):
        return Buildah()
    if shutil.which("docker"):
        return Docker()
    raise ToolError("neither buildah nor docker is here: apt-get install buildah skopeo")


def is_local(name: str) -> bool:
    """Whether a name belongs to this machine, and to no registry."""
    return name.startswith("localhost/") or "/" not in name


class Buildah:
    """buildah builds without a daemon, skopeo talks to registries.

    BUILDAH_ISOLATION and STORAGE_DRIVER are theirs: a container without privileges needs `chroot`
    and `vfs`.
    """

    def build(self, recipe: Recipe) -> str:
        """See Engine."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "id")
            words = ["--layers", f"--timestamp={TIME}", f"--target={recipe.target}"]
            words += [f"--build-arg={key}={value}" for key, value in recipe.arguments.items()]
            stream("buildah", "build", *words, f"--iidfile={file}", ".")
            return file.read_text(encoding="ascii").strip()

    def inspect(self, image: str) -> Built:
        """See Engine."""
        said = json.loads(run("buildah", "inspect", "--type=image", image))
        size = sum(int(layer["size"]) for layer in json.loads(said["Manifest"])["layers"])
        return Built(said["OCIv1"]["config"].get("Labels") or {}, size)

    def save(self, image: str, archive: Path) -> None:
        """See Engine."""
        stream("buildah", "push", "--quiet", image, f"docker-archive:{archive}")

    def push(self, image: str, name: str, tags: tuple[str, ...]) -> str:
        """See Engine. Later tags are copies in the registry, so that all mean one digest."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "digest")
            first = f"docker://{name}:{tags[0]}"
            words = ("push", f"--digestfile={file}", *_tls("tls-verify", name), image, first)
            stream("buildah", *words)
            digest = file.read_text(encoding="ascii").strip()
        secure = (*_tls("src-tls-verify", name), *_tls("dest-tls-verify", name))
        for tag in tags[1:]:
            source, target = f"docker://{name}@{digest}", f"docker://{name}:{tag}"
            stream("skopeo", "copy", "--quiet", *secure, source, target)
        return digest

    def look(self, name: str, tag: str) -> Found | None:
        """See Engine."""
        words = ("inspect", *_tls("tls-verify", name))
        try:
            said = json.loads(run("skopeo", *words, "--no-tags", f"docker://{name}:{tag}"))
            manifest = json.loads(run("skopeo", *words, "--raw", f"docker://{name}:{tag}"))
        except ImageError as error:
            if _is_absence(error):
                return None
            raise
        size = sum(int(layer["size"]) for layer in manifest.get("layers", ()))
        return Found(said["Digest"], said.get("Labels") or {}, size)

    def login(self, host: str, user: str, password: str) -> None:
        """See Engine. buildah and skopeo read the same file of credentials."""
        run("skopeo", "login", f"--username={user}", "--password-stdin", host, stdin=password)


class Docker:
    """Docker with BuildKit."""

    def build(self, recipe: Recipe) -> str:
        """See Engine. Docker sets the image's time; that of the files stays (docs/images.md)."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "id")
            arguments = {"SOURCE_DATE_EPOCH": str(TIME), **recipe.arguments}
            words = [f"--build-arg={key}={value}" for key, value in arguments.items()]
            words += [f"--target={recipe.target}", f"--iidfile={file}"]
            stream("docker", "build", *words, ".")
            return file.read_text(encoding="ascii").strip()

    def inspect(self, image: str) -> Built:
        """See Engine."""
        said = self._inspect(image)
        return Built(said["Config"].get("Labels") or {}, int(said["Size"]))

    def save(self, image: str, archive: Path) -> None:
        """See Engine."""
        stream("docker", "save", f"--output={archive}", image)

    def push(self, image: str, name: str, tags: tuple[str, ...]) -> str:
        """See Engine."""
        for tag in tags:
            run("docker", "tag", image, f"{name}:{tag}")
            stream("docker", "push", "--quiet", f"{name}:{tag}")
        return self._digest(self._inspect(f"{name}:{tags[-1]}"), name)

    def look(self, name: str, tag: str) -> Found | None:
        """See Engine. Docker has to fetch the image for it."""
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
        """See Engine."""
        run("docker", "login", f"--username={user}", "--password-stdin", host, stdin=password)

    def _inspect(self, image: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(run("docker", "image", "inspect", image))[0]
        return found

    def _digest(self, found: Mapping[str, Any], name: str) -> str:
        for reference in found.get("RepoDigests", ()):
            if reference.startswith(f"{name}@"):
                return str(reference).partition("@")[2]
        raise ImageError(f"{name}: docker knows no digest of it in the registry: push it again")


def stream(program: str, *words: str) -> None:
    """Run a program that tells of its progress, on stderr.

    Raises:
        ToolError: it is not here.
        ImageError: it failed.
    """
    done = _call(program, words, stdout=2, stderr=None)
    if done.returncode != 0:
        raise ImageError(f"{program} {words[0]} failed with {done.returncode}: see above")


def run(program: str, *words: str, stdin: str | None = None) -> str:
    """Run a program; returns what it wrote.

    Raises:
        ToolError: it is not here.
        ImageError: it failed, with its last line.
    """
    done = _call(program, words, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise ImageError(f"{program} {words[0]}: {lines[-1] if lines else 'failed without a word'}")
    return done.stdout


def _call(program: str, words: tuple[str, ...], **options: Any) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    try:
        return subprocess.run([program, *words], check=False, text=True, env=environment, **options)
    except FileNotFoundError:
        raise ToolError(f"{program} is not installed: {_cure(program)}") from None


def _cure(program: str) -> str:
    if program == "trivy":
        return "see https://trivy.dev; nothing is released that was not scanned"
    return f"apt-get install {program}"


def _tls(option: str, name: str) -> tuple[str, ...]:
    return (f"--{option}=false",) if _LOOPBACK.match(name) else ()


def _is_absence(error: ImageError) -> bool:
    return any(sign in str(error).lower() for sign in _ABSENT)
