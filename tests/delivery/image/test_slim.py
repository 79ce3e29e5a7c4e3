"""What the image of the service leaves out, and what its list of parts says."""

import importlib
import os
import sys
from importlib import metadata
from importlib.metadata import distribution
from pathlib import Path
from types import SimpleNamespace

import pytest

from delivery.image import sbom, slim
from tests.conftest import ROOT


def site(folder: Path, *names: str) -> Path:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x", encoding="ascii")
    return folder


def test_only_files_needed_for_serving_stay(tmp_path: Path) -> None:
    kept = (
        "numpy/core.py",
        "numpy/testing/__init__.py",
        "imagecodecs/_zstd.abi3.so",
        "imagecodecs/__init__.py",
        "imagecodecs.libs/libzstd-54610454.so.1.5.7",
        "botocore/data/s3/service.json.gz",
        "botocore/data/endpoints.json",
        "googleapiclient/discovery_cache/documents/drive.v2.json",
        "onnxruntime/capi/libonnxruntime_providers_cuda.so",
        "onnxruntime/capi/onnxruntime_pybind11_state.cpython-311-x86_64-linux-gnu.so",
    )
    gone = (
        "numpy/core/tests/test_core.py",
        "uvloop/loop.c",
        "uvloop/loop.pyx",
        "uvloop/loop.pxd",
        "uvloop/loop.pyi",
        "imagecodecs/_avif.abi3.so",
        "imagecodecs.libs/libzstdx-1.so",
        "botocore/data/ec2/service.json.gz",
        "googleapiclient/discovery_cache/documents/drive.v2beta.json",
        "googleapiclient/discovery_cache/documents/compute.v1.json",
        "onnxruntime/capi/libonnxruntime.so.1.31.1",
        "onnxruntime/capi/libonnxruntime_providers_tensorrt.so",
        "pip/__init__.py",
        "pyOpenSSL-22.0.0.dist-info/METADATA",
    )
    freed = slim.slim(site(tmp_path, *kept, *gone))
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(kept)
    assert sum(freed.values()) >= len(gone)


def test_the_requirements_of_an_extra_are_those_of_the_project() -> None:
    found = slim.requirements(ROOT / "pyproject.toml", "registry", "cpu", "")
    assert any(line.startswith("onnxruntime") for line in found)
    assert any(line.startswith("dvc[") for line in found)
    assert not any(line.startswith("torch") for line in found)


def test_the_cuda_build_of_the_runtime_has_the_version_of_the_other() -> None:
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    version = metadata.version("onnxruntime")
    plain, cuda = (
        slim.requirements(ROOT / "pyproject.toml", "registry", runtime, constraints)
        for runtime in ("cpu", "cuda")
    )
    assert set(cuda) - set(plain) == {f"onnxruntime-gpu[cuda,cudnn]=={version}"}
    (gone,) = set(plain) - set(cuda)
    assert gone.startswith("onnxruntime>=")


def test_byte_code_does_not_depend_on_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = site(tmp_path / "code", "landcover_probe.py") / "landcover_probe.py"
    code.write_text("ANSWER = {'a', 'b', 'c'}\n", encoding="ascii")
    monkeypatch.syspath_prepend(code.parent)
    loaded = {"landcover_probe": importlib.import_module("landcover_probe")}
    monkeypatch.setattr(slim, "sys", SimpleNamespace(modules=loaded))  # else all of pytest too
    made = []
    for time in (1_000_000_000, 1_700_000_000):
        os.utime(code, (time, time))
        monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path / str(time)))
        assert slim.compile_imported(["landcover_probe"]) == [code]
        [file] = (tmp_path / str(time)).rglob("landcover_probe.*.pyc")
        made.append(file.read_bytes())
    assert made[0] == made[1]
    assert made[0][4:8] == b"\x01\0\0\0"  # by hash, and not compared with the source


def test_a_package_of_debian_is_named_when_it_is_there() -> None:
    status = (
        "Package: git\nStatus: install ok installed\nArchitecture: amd64\n"
        "Version: 1:2.39.5-0+deb12u3\nDescription: fast\n more: than this\n\n"
        "Package: perl\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 5.36\n"
    )
    [found] = sbom.debian_components(status, "debian-12")
    assert found["name"] == "git"
    purl = "pkg:deb/debian/git@1%3A2.39.5-0%2Bdeb12u3?arch=amd64&distro=debian-12"
    assert found["purl"] == found["bom-ref"] == purl


def test_a_package_of_python_is_named_as_registries_name_it() -> None:
    found = sbom.python_component(distribution("pydantic_settings"))
    assert found["purl"].startswith("pkg:pypi/pydantic-settings@")
