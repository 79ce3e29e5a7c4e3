"""Delete unused files from the packages of the serve image. Runs in its build; needs only Python.

`requirements` prints the requirements of `.[extra]`, so that a change of code does not reinstall
them; `packages` deletes unused files, `installers` the installers of the base; `compile` writes the
byte code of the used modules, which a read-only container cannot. Each deleted part is listed with
the reason; tests/e2e/test_image.py fails if one is needed.
"""

import argparse
import importlib
import py_compile
import re
import shutil
import sys
import sysconfig
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path

SERVING = (
    "service.server.supervisor",
    "service.server.worker",
    # Imported late, with the first stored prediction.
    "service.feedback.retention",
    "service.feedback.store",
    "alembic.command",
    "psycopg",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite.pysqlite",
    "opentelemetry.sdk.trace.export",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    # The child process, and the remotes that it reads.
    "service.registry.__main__",
    "service.registry.download",
    "dvc.repo",
    "dvc_gdrive",
    "dvc_http",
    "dvc_s3",
    "googleapiclient.http",
    "pydrive2.fs",
    "s3fs",
)
"""Modules that are compiled with all their imports."""

UNUSED = {
    "an image installs nothing": (
        *("pip", "pip-*", "setuptools*", "pkg_resources"),
        *("_distutils_hack", "distutils-precedence.pth"),
    ),
    # PyDrive2 requires a release that does not work with a current cryptography; it fails on
    # import, and so does Google Drive. Without it, oauth2client signs with rsa.
    "broken": ("OpenSSL", "pyOpenSSL-*", "pyopenssl-*"),
    "tests": ("**/tests", "alembic/testing", "sqlalchemy/testing"),
    "templates for new migrations": ("alembic/templates",),
    "sources of what is compiled": ("**/*.[ch]", "**/*.cpp", "**/*.pyx", "**/*.px[di]", "**/*.pyi"),
    "tools for making models": (
        *("onnxruntime/transformers", "onnxruntime/quantization", "onnxruntime/tools"),
        *("onnxruntime/backend", "onnxruntime/datasets"),
    ),
    "the runtime for programs in C; Python has its own": ("onnxruntime/capi/libonnxruntime.so.*",),
    "a provider that no setting chooses": (
        "onnxruntime/capi/libonnxruntime_providers_tensorrt.so",
    ),
}
"""Reason -> patterns below site-packages."""

INSTALLERS = (
    *("{stdlib}/ensurepip", "{purelib}/pip", "{purelib}/pip-*", "{purelib}/setuptools*"),
    *("{purelib}/wheel*", "{purelib}/pkg_resources", "{purelib}/_distutils_hack"),
    *("{scripts}/pip*", "{scripts}/wheel", "/usr/share/python-wheels"),
)
"""Locations of the installers in Debian and in the image of Python."""

DRIVE = ("drive.v2.json", "drive.v3.json")
LOGINS = ("sts", "sso", "sso-oidc", "signin")
TABLES = ("endpoints.json", "partitions.json", "_retry.json", "sdk-default-configuration.json")
# Formats that decode.py and tiff.py accept: LZW, PackBits and predictors; deflate; ZSTD.
CODECS = ("_imcd", "_shared", "_shared_cython", "_deflate", "_zlib", "_zstd")
PICTURES = ("libXau", "libjpeg", "liblzma", "libopenjp2", "libtiff", "libxcb", "libzstd")
KEPT = {
    "googleapiclient/discovery_cache/documents/*.json": DRIVE,
    "botocore/data/*": ("s3", *LOGINS, *TABLES),
    "imagecodecs/_*.so": CODECS,
    "imagecodecs.libs/*": ("libdeflate", "libzstd"),
    "PIL/_*.so": ("_imaging", "_imagingmath", "_imagingmorph"),
    "pillow.libs/*": PICTURES,
}
"""Pattern below site-packages -> names that stay; a library up to its first `.` or `-`."""


def requirements(pyproject: Path, extras: str, runtime: str, constraints: str) -> list[str]:
    """Return the requirements of a project with some of its extras, `registry,stream`.

    With the runtime `cuda`, ONNX Runtime is its CUDA build of the same version, and CUDA's
    libraries.
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    found = list(project["dependencies"])
    for extra in extras.split(","):
        found += project["optional-dependencies"][extra]
    if runtime == "cuda":
        (version,) = re.findall(r"(?m)^onnxruntime==(\S+)", constraints)
        found = [it for it in found if not re.match(r"onnxruntime\b", it)]
        found.append(f"onnxruntime-gpu[cuda,cudnn]=={version}")
    return found


def slim(site: Path) -> dict[str, int]:
    """Delete unused files; returns the freed bytes of each pattern."""
    patterns = [pattern for group in UNUSED.values() for pattern in group]
    freed = {pattern: _delete(site.glob(pattern)) for pattern in patterns}
    for pattern, names in KEPT.items():
        freed[pattern] = _delete(path for path in site.glob(pattern) if not _is_kept(path, names))
    return freed


def _is_kept(path: Path, names: tuple[str, ...]) -> bool:
    stem = path.name.split(".")[0].split("-")[0]
    return path.name in names or (path.suffix != ".json" and stem in names)


def _delete(paths: Iterable[Path]) -> int:
    freed = 0
    for path in list(paths):
        if path.is_dir() and not path.is_symlink():
            freed += sum(file.lstat().st_size for file in path.rglob("*"))
            shutil.rmtree(path)
        elif path.is_symlink() or path.exists():
            freed += path.lstat().st_size
            path.unlink()
    return freed


def compile_imported(modules: Iterable[str]) -> list[Path]:
    """Import modules and compile every module that this loads; returns the files.

    The byte code has no time and is not compared with its source, which never changes.
    """
    for name in modules:
        importlib.import_module(name)
    files = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
    found = sorted({Path(file) for file in files if file.endswith(".py")})
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    for file in found:
        py_compile.compile(str(file), doraise=True, invalidation_mode=mode)
    return found


def _packages(_: argparse.Namespace) -> None:
    site = Path(sysconfig.get_path("purelib"))
    for pattern, size in slim(site).items():
        print(f"{size / 2**20:7.1f} MiB  {pattern}")
    for script in Path(sysconfig.get_path("scripts")).iterdir():
        if not script.name.startswith("python"):
            script.unlink()


def _installers(_: argparse.Namespace) -> None:
    for place in INSTALLERS:
        path = Path(place.format(**sysconfig.get_paths()))
        _delete(path.parent.glob(path.name))


def _compile(_: argparse.Namespace) -> None:
    sys.path.insert(0, "")
    print(f"{len(compile_imported(SERVING))} modules compiled")


def _requirements(options: argparse.Namespace) -> None:
    constraints = options.constraints.read_text(encoding="utf-8")
    found = requirements(options.pyproject, options.extra, options.runtime, constraints)
    print(*found, sep="\n")


def main() -> None:
    """Run a subcommand."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)

    def add(name: str, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        return command

    command = add("requirements", _requirements)
    command.add_argument("pyproject", type=Path)
    command.add_argument("extra")
    command.add_argument("constraints", type=Path)
    command.add_argument("runtime", choices=("cpu", "cuda"))
    add("packages", _packages)
    add("installers", _installers)
    add("compile", _compile)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
