"""Install the packages of poetry.lock into the environment of this Python; nothing is resolved.

    python ci/environment.py registry,train --torch auto

`make setup` calls it. The lock says which version each extra takes on this Python and platform, so
that the installer only downloads and unpacks. The installer is uv: the one on PATH, or else one
that pip brings into the environment. `--installer pip` does without it and takes several times as
long. Both look where pip's configuration points (index, extra indexes, find-links, certificate).

torch is the CPU build or the CUDA build. The CPU build is taken from a place of pip's configuration
if one has it, and from PyTorch's own index otherwise.
"""

import argparse
import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from pip._vendor.packaging.markers import Marker  # pip is in every environment that `venv` makes

ROOT = Path(__file__).resolve().parent.parent
CUDA_LIBRARIES = re.compile(r"nvidia-(cu|nccl|nv)|triton|cuda-")
PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# Measured on Python 3.11, x86-64; for the message alone.
DOWNLOADS = {"none": "about 150 MB", "cpu": "about 630 MB", "cuda": "about 4.5 GB"}
UV = "uv>=0.9,<1"
PIP_SETTINGS = (
    ("index-url", "UV_DEFAULT_INDEX", ""),
    ("extra-index-url", "UV_INDEX", " "),
    ("find-links", "UV_FIND_LINKS", ","),
    ("trusted-host", "UV_INSECURE_HOST", " "),
    ("cert", "SSL_CERT_FILE", " "),
)

# A folder to install into that is not this environment, and modules of another Python.
ELSEWHERE = (
    *("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_DRY_RUN", "PIP_REQUIRE_HASHES"),
    *("UV_TARGET", "UV_PREFIX", "UV_SYSTEM_PYTHON", "UV_PYTHON", "UV_REQUIRE_HASHES"),
    *("PYTHONPATH", "PYTHONHOME"),
)
CAUSE = re.compile(r"(error|cause|caused by|hint): ", re.IGNORECASE)
OTHERWISE = "check the network, and the index in `pip config list`"
# Words in what uv and pip print -> what to do. The first match counts.
CURES = {
    "No space left|os error 28": "free some space, or set UV_CACHE_DIR to a folder on another disk",
    "Permission denied": "let this user write there, or delete .venv and run make setup again",
    "[Hh]ash mismatch|DO NOT MATCH THE HASHES": "a mirror or proxy altered the file: empty the "
    "cache (uv cache clean, pip cache purge), or take another index",
    "certificate|UnknownIssuer|CERTIFICATE_VERIFY": "name your company's authority: pip config set "
    "global.cert FILE",
    "Unauthorized|Forbidden": "give the index in `pip config list` your credentials",
    "dns error|resolve|[Cc]onnect|timed? ?out|unreachable|tunnel|NewConnectionError": "check the "
    "network and HTTPS_PROXY, or take a mirror: pip config set global.index-url URL",
    "not found in the package registry|no version of|No matching distribution": "the index in "
    "`pip config list` does not have it, or wants credentials: correct it, or add another "
    "(PIP_EXTRA_INDEX_URL)",
}

# PyDrive2 asks for a pyOpenSSL that breaks beside today's cryptography, and signs without it.
LEFT_OUT = ("pyopenssl",)

Packages = dict[str, str]


class SetupError(Exception):
    """The environment cannot be installed; the message says what to do."""


def locked(lock: Path, extras: list[str], build: str) -> Packages:
    """Versions by name, of the core and `extras`, for this Python; for the CPU without CUDA."""
    document = tomllib.loads(lock.read_text(encoding="utf-8"))
    unknown = set(extras) - set(document["extras"])
    if unknown:
        raise SetupError(
            f"EXTRAS: {', '.join(sorted(unknown))} is not an extra of pyproject.toml: choose of "
            f"{', '.join(sorted(document['extras']))}"
        )
    return {
        package["name"]: package["version"]
        for package in document["package"]
        if package["name"] not in LEFT_OUT
        and (build == "cuda" or not CUDA_LIBRARIES.match(package["name"]))
        and any(_holds(package.get("markers"), extra) for extra in ("", *extras))
    }


def _holds(marker: str | None, extra: str) -> bool:
    return marker is None or Marker(marker).evaluate({"extra": extra})


def choose_torch(choice: str) -> str:
    """`cpu` or `cuda`; `auto` looks for an NVIDIA driver."""
    if choice not in ("auto", "cpu", "cuda"):
        raise SetupError(f"TORCH={choice}: choose cpu, cuda or auto")
    if choice != "auto":
        return choice
    try:
        found = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return "cpu"
    return "cuda" if found.returncode == 0 and found.stdout.strip() else "cpu"


def own_environment() -> dict[str, str]:
    """The environment without what would install elsewhere, or run another Python's modules."""
    kept = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    return kept | {"PIP_USER": "0"}  # also where pip's configuration says otherwise


def explain(output: str) -> str:
    """The cause in what uv or pip printed, and what to do."""
    lines = [line.strip() for line in output.splitlines()]
    causes = [CAUSE.sub("", line) for line in lines if CAUSE.match(line)]
    # uv goes from "Failed to fetch" to "Connection refused": both ends say enough.
    text = "; ".join(dict.fromkeys([*causes[:1], *causes[-1:]]))[:600]
    cure = next((cure for signs, cure in CURES.items() if re.search(signs, output)), OTHERWISE)
    return f"{text or 'the installer gave no reason'}: {cure}"


class Installer:
    """Puts exact versions into this environment, by uv or by pip."""

    def __init__(self, name: str) -> None:
        self.environment = own_environment()
        self.said = ""  # what it printed when it failed last
        if name == "uv":
            self.command = [*_uv(), "pip", "install", "--python", sys.executable]
            self.environment |= pip_settings_for_uv()
        elif name == "pip":
            self.command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
            self.command += ["--no-compile"]  # Python compiles what is imported, when it is
        else:
            raise SetupError(f"INSTALLER={name}: choose uv or pip")

    def install(self, *requirements: str, quiet: bool = False) -> bool:
        """Whether it worked. The installer's own output shows how far it is.

        A failure is often the network's, so that a second try helps; what that one prints is kept,
        because an installer shows no progress to a program that reads along.
        """
        command = [*self.command, "--no-deps", *requirements]
        if not quiet and subprocess.run(command, env=self.environment).returncode == 0:
            return True
        again = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, errors="replace"
        )
        self.said = again.stderr + again.stdout
        return again.returncode == 0


def _uv() -> list[str]:
    """The uv on PATH, or the one that pip installs beside this Python."""
    own = Path(sys.executable).with_name("uv")
    found = shutil.which("uv") or (str(own) if own.exists() else None)
    if found:
        return [found]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, UV], env=own_environment(), capture_output=True, text=True, errors="replace"
    )
    if done.returncode != 0:
        raise SetupError(
            f"uv could not be downloaded: {explain(done.stderr)}; or install without uv: "
            "make setup INSTALLER=pip"
        )
    return [str(own)]


def pip_settings_for_uv() -> dict[str, str]:
    """pip's settings of where packages come from, under the names that uv reads."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    done = subprocess.run(command, capture_output=True, text=True, env=own_environment())
    lines = done.stdout.splitlines()
    found: dict[str, list[str]] = {}
    for line in sorted(lines):  # those of the environment, `:env:`, come first and win
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        found.setdefault(name, str(ast.literal_eval(value)).split())
    settings = {
        variable: separator.join(found[name])
        for name, variable, separator in PIP_SETTINGS
        if name in found
    }
    # Like pip: the best version of all indexes, not the first index that knows the name.
    settings["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return {key: value for key, value in settings.items() if key not in os.environ}


def missing(packages: Packages, build: str) -> list[str]:
    """The packages that this Python lacks in their version; any build of torch serves a CPU."""
    found = {
        re.sub(r"[-_.]+", "-", str(each.name)).lower(): each.version
        for each in importlib.metadata.distributions()
    }
    torch, _, local = found.get("torch", "").partition("+")
    if build == "cpu" or local != "cpu":
        found["torch"] = torch
    return [name for name, version in packages.items() if found.get(name) != version]


def install(installer: Installer, packages: Packages, build: str, *code: str) -> None:
    """All of `packages`, torch as `build`, and `code`, words that install the project itself."""
    if "torch" in packages and build == "cpu" and sys.platform == "linux":
        _install_cpu_torch(installer, packages["torch"])
        packages = {name: version for name, version in packages.items() if name != "torch"}
    if not installer.install(*map("=".join, _exact(packages)), *code):
        raise SetupError(
            f"packages could not be installed: {explain(installer.said)}. Finished downloads are "
            "kept: run it again"
        )


def _exact(packages: Packages) -> Iterator[tuple[str, str]]:
    """`===` tells torch 2.13.0 from 2.13.0+cpu, which `==` takes for the same."""
    for name, version in packages.items():
        yield name, f"=={version}" if name == "torch" else f"={version}"


def _install_cpu_torch(installer: Installer, version: str) -> None:
    requirement = f"torch=={version}+cpu"
    print(f"setup: {requirement}, from your package sources or from PyTorch's index", flush=True)
    if installer.install(requirement, quiet=True):
        return
    if not installer.install("--index-url", PYTORCH_CPU_INDEX, requirement):
        raise SetupError(
            f"{requirement} was found neither in the sources of `pip config list` nor at "
            f"{PYTORCH_CPU_INDEX}: {explain(installer.said)}; or name a mirror in "
            f"PIP_EXTRA_INDEX_URL or a folder with the wheel in PIP_FIND_LINKS; or take the CUDA "
            f"build with TORCH=cuda ({DOWNLOADS['cuda']})"
        )


def main() -> None:
    """Read the arguments, say what will be downloaded, install."""
    parser = argparse.ArgumentParser(description="install what poetry.lock names")
    parser.add_argument("extras", help="extras of pyproject.toml, with commas")
    parser.add_argument("--torch", default="auto", metavar="auto|cpu|cuda")
    parser.add_argument("--installer", default="uv", metavar="uv|pip")
    parser.add_argument("--list", action="store_true", help="print the packages, install nothing")
    parser.add_argument("--shared", action="store_true", help="install packages, not this clone")
    options = parser.parse_args()
    try:
        build = choose_torch(options.torch)
        extras = [name for name in options.extras.split(",") if name]
        packages = locked(ROOT / "poetry.lock", extras, build)
        if options.list:
            print(*(f"{name}=={version}" for name, version in packages.items()), sep="\n")
            return
        if options.shared and not missing(packages, build):
            print(f"setup: all {len(packages)} packages are here")
            return
        print(f"setup: {announce(packages, build, options.torch)}", flush=True)
        code = () if options.shared else ("--editable", str(ROOT))
        install(Installer(options.installer), packages, build, *code)
    except SetupError as error:
        sys.exit(f"error: {error}")


def announce(packages: Packages, build: str, choice: str) -> str:
    """How much is downloaded, and for CUDA a warning."""
    text = f"{len(packages)} packages, {DOWNLOADS[build if 'torch' in packages else 'none']}"
    if "torch" not in packages:
        return f"{text} to download the first time, without torch"
    text += f" to download the first time, with torch for {build.upper()}"
    if build == "cuda":
        return f"warning: {text}; TORCH=cpu takes {DOWNLOADS['cpu']}"
    return f"{text} (no NVIDIA GPU was found)" if choice == "auto" else text


if __name__ == "__main__":
    main()
