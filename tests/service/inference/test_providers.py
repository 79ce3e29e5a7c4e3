"""What runs the model: the setting, the build of ONNX Runtime, and what a session says."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from service.container import Container
from service.errors import BundleRefused, Unavailable, UnsafeSettings
from service.inference import providers
from service.inference.bundle import read_bundle
from service.inference.engine import Engine
from service.inference.providers import CPU, CUDA, NO_BUILD, choose, open_session, provider_of
from service.inference.tasks import TOLERANCE, task_of
from service.server import supervisor
from service.settings import read_settings
from tests.make.bundles import make_bundle

CPU_BUILD = onnxruntime.get_available_providers()
CUDA_BUILD = ["TensorrtExecutionProvider", CUDA, CPU]  # onnxruntime-gpu 1.31.1, on any machine


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "model", seed=3)


class Gpu:
    """A session that says it runs on a GPU, and computes on the CPU, `error` off."""

    def __init__(self, session: Any, error: float = 0.0, index: int = 0) -> None:
        self.session, self.error, self.index = session, error, index
        self.get_inputs, self.get_outputs = session.get_inputs, session.get_outputs

    def get_providers(self) -> list[str]:
        return [CUDA, CPU]

    def run(self, *arguments: Any) -> list[Any]:
        found = list(self.session.run(*arguments))
        found[self.index] = found[self.index] * np.float32(1 + self.error)
        return found


Opening = Callable[..., list[Any]]


@pytest.fixture
def cuda_build(monkeypatch: pytest.MonkeyPatch) -> Opening:
    """ONNX Runtime as its CUDA build says it is; on a GPU that is `error` off, or on none."""

    def become(gpu: bool, **options: Any) -> list[Any]:
        asked: list[Any] = []
        real = onnxruntime.InferenceSession

        def open_it(graph: bytes, given: Any, providers: list[Any]) -> Any:
            asked.append(providers)
            session = real(graph, given, providers=[CPU])
            if providers != [CPU] and not gpu:
                print("EP Error: no CUDA-capable device is detected")  # as the runtime does
            return Gpu(session, **options) if providers != [CPU] and gpu else session

        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: CUDA_BUILD)
        monkeypatch.setattr(onnxruntime, "InferenceSession", open_it)
        return asked

    return become


def engine(bundle: Path, provider: str) -> Engine:
    found = read_bundle(bundle)
    return Engine(found, task_of(found.manifest), provider)


def test_the_setting_and_the_build_decide() -> None:
    for build, wanted, chosen in (
        (CPU_BUILD, "auto", CPU),
        (CPU_BUILD, "cpu", CPU),
        (CUDA_BUILD, "auto", CUDA),
        (CUDA_BUILD, "cuda", CUDA),
        (CUDA_BUILD, "cpu", CPU),
    ):
        assert choose(wanted, build) == chosen
    with pytest.raises(Unavailable, match="build the image with RUNTIME=cuda, or set"):
        choose("cuda", CPU_BUILD)


def test_this_build_runs_on_the_cpu(bundle: Path) -> None:
    assert CUDA not in CPU_BUILD
    graph = (bundle / "model.onnx").read_bytes()
    assert {provider_of(open_session(graph, it)) for it in ("auto", "cpu")} == {CPU}


def test_a_gpu_that_is_there_is_used_and_compared_with_the_cpu(
    bundle: Path, cuda_build: Opening
) -> None:
    asked = cuda_build(gpu=True, error=TOLERANCE / 10)
    for provider in ("auto", "cuda"):
        found = engine(bundle, provider)
        found.warm_up()
        found.self_test()
        assert found.provider == CUDA
    assert asked == [[(CUDA, providers.CUDA_OPTIONS), CPU], [CPU]] * 2


@pytest.mark.parametrize(("index", "name"), [(0, "probabilities"), (1, "statistics")])
def test_a_gpu_that_computes_something_else_may_not_serve(
    bundle: Path, cuda_build: Opening, index: int, name: str
) -> None:
    for error in (0.1, float("nan")):
        cuda_build(gpu=True, error=error, index=index)
        with pytest.raises(BundleRefused, match=f"golden chip 0: the {name} of CUDA.*SERVICE_DEV"):
            engine(bundle, "auto").self_test()


def test_without_a_gpu_the_cuda_build_serves_on_the_cpu_and_says_why(
    bundle: Path,
    cuda_build: Opening,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    cuda_build(gpu=False)
    found = engine(bundle, "auto")
    found.self_test()
    assert found.provider == CPU
    (line,) = caplog.records
    assert "no CUDA-capable device is detected" in line.__dict__["detail"]
    assert capsys.readouterr().out == ""  # the log is there, in JSON


def test_who_wants_a_gpu_does_not_get_the_cpu_unnoticed(bundle: Path, cuda_build: Opening) -> None:
    cuda_build(gpu=False)
    with pytest.raises(Unavailable, match="cannot use a GPU here.*k8s/components/gpu"):
        engine(bundle, "cuda")


def test_a_broken_graph_is_refused_with_either_build(
    bundle: Path, tmp_path: Path, cuda_build: Opening
) -> None:
    cuda_build(gpu=True)
    found = read_bundle(Path(shutil.copytree(bundle, tmp_path / "model")))
    for provider in ("cpu", "cuda"):
        with pytest.raises(BundleRefused, match="cannot open the graph"):
            Engine(found._replace(graph=b"no graph"), task_of(found.manifest), provider)


def test_the_setting_reaches_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_DEVICE", "cpu")
    assert Container().loader()._device == "cpu"
    monkeypatch.setenv("SERVICE_DEVICE", "gpu")
    with pytest.raises(UnsafeSettings, match="SERVICE_DEVICE is 'gpu', wanted .*'cuda'"):
        read_settings()


def test_a_provider_that_is_not_built_in_stops_the_start() -> None:
    supervisor._check_device("auto")
    with pytest.raises(UnsafeSettings) as caught:
        supervisor._check_device("cuda")
    assert str(caught.value) == NO_BUILD
