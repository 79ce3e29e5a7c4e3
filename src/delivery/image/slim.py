"""What the serve image leaves out of its packages. Runs while the image is built; needs nothing.

`requirements` prints what `.[extra]` stands for, so that a change of code installs nothing again;
`packages` deletes what is never used, `installers` what the base could install with; `compile`
keeps byte code of what is used, since a read-only image could not. Deleted parts are named one by
one, with the reason; a part that is missed shows in tests/e2e/test_image.py.
"""

import argparse
import importlib
import py_compile
import shutil
import sys
import sysconfig
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path

SERVING = (
    "service.server.supervisor",
    "service.server.worker",
    # Imported late, with the first prediction that is saved.
    "service.feedback.retention",
    "service.feedback.store",
    "alembic.command",
    "psycopg",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite.pysqlite",
    "opentelemetry.sdk.trace.export",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    # The child process, and the remotes that it may read from.
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
"""Modules whose imports, and theirs, are kept as byte code."""

UNUSED = {
    "nothing is installed into an image": (
        *("pip", "pip-*", "setuptools*", "pkg_resources"),
        *("_distutils_hack", "distutils-precedence.pth"),
    ),
    # PyDrive2 takes no release that goes with a current cryptography; the one that it takes fails
    # on import, and with it Google Drive. Without it, oauth2client signs with rsa.
    "broken": ("OpenSSL", "pyOpenSSL-*", "pyopenssl-*"),
    "tests": ("**/tests", "alembic/testing", "sqlalchemy/testing"),
    "templates for new migrations": ("alembic/templates",),
    "sources of what is compiled": ("**/*.[ch]", "**/*.cpp", "**/*.pyx", "**/*.px[di]", "**/*.pyi"),
    "tools for making models": (
        *("onnxruntime/transformers", "onnxruntime/quantization", "onnxruntime/tools"),
        *("onnxruntime/backend", "onnxruntime/datasets"),
    ),
    "the runtime for programs in C; Python's stands beside it": (
        "onnxruntime/capi/libonnxruntime.so.*",
    ),
}
"""Why it can go -> patterns below site-packages."""

INSTALLERS = (
    *("{stdlib}/ensurepip", "{purelib}/pip", "{purelib}/pip-*", "{purelib}/setuptools*"),
    *("{purelib}/wheel*", "{purelib}/pkg_resources", "{purelib}/_distutils_hack"),
    *("{scripts}/pip*", "{scripts}/wheel", "/usr/share/python-wheels"),
)
"""Where Debian and the image of Python keep what installs packages."""

DRIVE = ("drive.v2.json", "drive.v3.json")
LOGINS = ("sts", "sso", "sso-oidc", "signin")
TABLES = ("endpoints.json", "partitions.json", "_retry.json", "sdk-default-configuration.json")
# Formats that decode.py and tiff.py take: LZW, PackBits and predictors; deflate; ZSTD.
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
"""Pattern below site-packages -> what stays of it; a library counts up to its first `.` or `-`."""


def requirements(pyproject: Path, extra: str) -> list[str]:
    """Return what a project needs, with one of its extras."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"][extra]]


def slim(site: Path) -> dict[str, int]:
    """Delete what is not used; returns the bytes that each pattern freed."""
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
    """Import modules and keep byte code of everything that this loads; returns the files.

    The code carries no time and is not compared with its source, which can not change.
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
    print(*requirements(options.pyproject, options.extra), sep="\n")


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)

    def add(name: str, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        return command

    asked = add("requirements", _requirements)
    asked.add_argument("pyproject", type=Path)
    asked.add_argument("extra")
    add("packages", _packages)
    add("installers", _installers)
    add("compile", _compile)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
