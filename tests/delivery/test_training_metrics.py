import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from delivery.errors import TrainingFailed
from delivery.metrics import gpu, pipeline
from delivery.metrics.pipeline import NotPushed, push, watched
from tests.conftest import ROOT
from tests.fakes.gitlab import server as gitlab
from tests.fakes.http import Request, answering
from tests.make import pushgateway
from tests.make.ports import free_port
from tests.make.processes import until
from tests.make.pushgateway import Gateway

pytestmark = pushgateway.needed


@pytest.fixture(scope="module")
def running() -> Iterator[Gateway]:
    with pushgateway.running() as found:
        yield found


@pytest.fixture
def gateway(running: Gateway, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    for name in ("CI_PIPELINE_CREATED_AT", "CI_SERVER_URL", *pipeline.TOKENS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PUSHGATEWAY_URL", running.url)
    yield running
    running.clear()


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What the pipeline leaves when it trained."""
    monkeypatch.chdir(tmp_path)

    def leave(finished: datetime | None = None, seconds: float = 12.5) -> None:
        when = (finished or datetime.now(UTC)).isoformat(timespec="seconds")
        training = {"finished": when, "seconds": seconds, "hardware": "a GPU"}
        write(tmp_path / "model/model.json", {"training": training})
        write(tmp_path / "reports/metrics.json", {"accuracy": 0.93, "macro_f1": 0.9})
        write(tmp_path / "reports/training/metrics.json", {"step": 39})

    return leave


def write(path: Path, document: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """An nvidia-smi that is a shell script; it notes how it was called."""
    program = folder / "bin" / "nvidia-smi"
    program.parent.mkdir(exist_ok=True)
    calls = folder / "calls"
    program.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n{script}\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return calls


def test_a_pushgateway_of_the_tests_knows_nothing_of_an_earlier_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for _ in range(2):
        with pushgateway.running() as gateway:
            assert gateway.series("conveyor_pipeline_seconds") == {}
            monkeypatch.setenv("PUSHGATEWAY_URL", gateway.url)
            push({"conveyor_pipeline_seconds": 1}, {"pipeline": "main"})


def test_a_training_is_pushed_with_its_figures(
    gateway: Gateway, trained: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with watched("request"):
        trained()

    assert gateway.value("conveyor_training_seconds") == 12.5
    assert gateway.value("conveyor_training_epochs") == 40
    assert gateway.value("conveyor_training_accuracy") == 0.93
    finished = gateway.value("conveyor_training_finished_timestamp_seconds")
    assert finished == pytest.approx(datetime.now(UTC).timestamp(), abs=60)
    assert list(gateway.series("conveyor_pipeline_seconds")) == [(("pipeline", "request"),)]
    assert gateway.value("conveyor_training_gpu_utilization_ratio") is None, "there is no GPU"
    assert capsys.readouterr().err == ""


def test_a_pipeline_replaces_its_own_figures_and_no_others(
    gateway: Gateway, trained: Callable[..., None]
) -> None:
    with watched("request"):
        trained()
    with watched("retrain"):
        trained(seconds=99)
    before = gateway.series("conveyor_pipeline_seconds")[(("pipeline", "retrain"),)]
    with watched("retrain"):
        threading.Event().wait(0.01)

    pipelines = gateway.series("conveyor_pipeline_seconds")
    assert {labels[0][1] for labels in pipelines} == {"request", "retrain"}
    assert pipelines[(("pipeline", "retrain"),)] != before
    assert gateway.value("conveyor_training_seconds") == 99


def test_an_older_training_is_not_pushed_again(
    gateway: Gateway, trained: Callable[..., None]
) -> None:
    trained(datetime.now(UTC) - timedelta(hours=3))
    with watched("retrain"):
        pass

    assert gateway.value("conveyor_training_seconds") is None
    assert gateway.series("conveyor_pipeline_seconds")


def test_the_time_of_a_pipeline_counts_from_its_creation(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = datetime.now(UTC) - timedelta(hours=2)
    monkeypatch.setenv("CI_PIPELINE_CREATED_AT", f"{created:%Y-%m-%dT%H:%M:%SZ}")
    with watched("main"):
        pass

    seconds = gateway.series("conveyor_pipeline_seconds")[(("pipeline", "main"),)]
    assert seconds == pytest.approx(7200, abs=60)


@pytest.mark.parametrize("text", ["", "yesterday", "2026-01-01T00:00:00", "9999-01-01T00:00:00Z"])
def test_an_impossible_creation_time_is_ignored(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("CI_PIPELINE_CREATED_AT", text)
    assert pipeline.created(1000.0) == 1000.0


def test_a_failed_training_keeps_its_error_and_pushes_no_figures(
    gateway: Gateway, trained: Callable[..., None]
) -> None:
    with pytest.raises(TrainingFailed, match="a stage"), watched("request"):
        trained()
        raise TrainingFailed("a stage failed")

    assert gateway.series("conveyor_pipeline_seconds") == {}
    assert gateway.value("conveyor_training_seconds") is None


@pytest.mark.parametrize(
    ("path", "content", "lost"),
    [
        ("model/model.json", "{", "conveyor_training_seconds"),
        ("model/model.json", '{"training": {"finished": "soon"}}', "conveyor_training_seconds"),
        ("reports/metrics.json", '["accuracy"]', "conveyor_training_accuracy"),
        ("reports/metrics.json", '{"accuracy": NaN}', "conveyor_training_accuracy"),
        ("reports/training/metrics.json", '{"step": "many"}', "conveyor_training_epochs"),
    ],
)
def test_unreadable_figures_are_left_out(
    gateway: Gateway, trained: Callable[..., None], path: str, content: str, lost: str
) -> None:
    with watched("request"):
        trained()
        Path(path).write_text(content, encoding="utf-8")

    assert gateway.value(lost) is None
    assert gateway.series("conveyor_pipeline_seconds"), "the rest is there"


def test_gpus_are_watched_while_it_trains(
    gateway: Gateway,
    trained: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu.Sampler.__init__, "__defaults__", (0.01, 10.0))
    calls = stand_in(tmp_path, monkeypatch, 'echo "3, 11"; echo "80, 2048"; echo "[N/A], [N/A]"')
    with watched("request"):
        until(lambda: calls.exists() and len(calls.read_text().splitlines()) > 3)
        trained(seconds=60)

    assert gateway.value("conveyor_training_gpu_utilization_ratio") == pytest.approx(0.8)
    assert gateway.value("conveyor_training_gpu_memory_bytes") == 2048 * 2**20
    assert calls.read_text().splitlines()[0] == (
        "--query-gpu=utilization.gpu,memory.used --format=csv,noheader,nounits"
    )


def test_only_the_time_of_the_training_counts() -> None:
    sampler = gpu.Sampler()
    sampler.samples = [gpu.Sample(when, when / 1000, 1.0) for when in (100.0, 500.0, 900.0)]
    training = pipeline.Training(finished=datetime.fromtimestamp(510, UTC), seconds=20)

    found = pipeline.figures(training, sampler)

    assert found["conveyor_training_gpu_utilization_ratio"] == 0.5


@pytest.mark.parametrize(
    "script", ["exit 9", "echo 'No devices were found'", "sleep 600", "echo ,"]
)
def test_sampling_ends_after_repeated_failures_of_nvidia_smi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    calls = stand_in(tmp_path, monkeypatch, f"exec {script}" if "sleep" in script else script)
    with gpu.Sampler(interval=0.01, patience=0.2) as sampler:
        until(lambda: not sampler._thread.is_alive())

    assert sampler.samples == []
    assert len(calls.read_text().splitlines()) == gpu.FAILURES


def test_the_end_of_each_token_is_pushed(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with gitlab.serving() as api:
        monkeypatch.setenv("CI_SERVER_URL", api.url)
        # That of releases may push only, and ask about itself.
        scopes = ("write_repository",)
        token = api.admit(scopes=scopes, personal=False, expires_at="2027-03-01")
        monkeypatch.setenv("RELEASE_TOKEN", token)
        monkeypatch.setenv("BOT_TOKEN", "glpat-of-nobody")
        with watched("main"):
            pass

    ends = gateway.series("conveyor_token_expires_timestamp_seconds")
    assert ends == {(("token", "RELEASE_TOKEN"),): datetime(2027, 3, 1, tzinfo=UTC).timestamp()}
    said = capsys.readouterr().err
    assert "BOT_TOKEN ends: GitLab does not know the token" in said
    assert "glpat" not in said
    assert gateway.series("conveyor_pipeline_seconds"), "the rest is there"


def test_a_token_without_an_expiry_date_pushes_no_expiry(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gitlab.serving() as api:
        monkeypatch.setenv("CI_SERVER_URL", api.url)
        monkeypatch.setenv("BOT_TOKEN", api.admit(expires_at=None))
        with watched("main"):
            pass

    assert gateway.series("conveyor_token_expires_timestamp_seconds") == {}


def test_a_token_with_a_line_break_fails_no_training(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CI_SERVER_URL", gateway.url)
    monkeypatch.setenv("BOT_TOKEN", "glpat-secret\n")
    with watched("retrain"):
        pass

    said = capsys.readouterr().err
    assert "metrics: not pushed: BOT_TOKEN: a token has no spaces" in said and "secret" not in said


def test_an_unexpected_error_fails_nothing_and_only_its_type_is_reported(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def surprise(name: str, token: str) -> float:
        raise UnicodeError(f"{name} is {token}")

    monkeypatch.setattr(pipeline, "expiry", surprise)
    monkeypatch.setenv("BOT_TOKEN", "glpat-secret")
    with pytest.raises(TrainingFailed, match="see above"), watched("retrain"):
        raise TrainingFailed("see above")
    with watched("retrain"):
        pass

    said = capsys.readouterr().err
    assert said.count("metrics: not pushed: UnicodeError") == 2 and "secret" not in said


def test_a_pushgateway_that_is_down_fails_nothing(
    trained: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    port = free_port()
    monkeypatch.setenv("PUSHGATEWAY_URL", f"http://me:secret@127.0.0.1:{port}")
    with watched("request"):
        trained()

    said = capsys.readouterr().err
    assert "metrics: not pushed: the pushgateway cannot be reached" in said
    assert "secret" not in said and str(port) not in said


@pytest.mark.parametrize(
    "url", ["ftp://push.example.com", "http://", "http://[::1", "http://a:b:c"]
)
def test_an_invalid_address_fails_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    monkeypatch.setenv("PUSHGATEWAY_URL", url)
    with watched("main"):
        pass

    assert "metrics: not pushed: " in capsys.readouterr().err


def test_nothing_is_measured_without_a_pushgateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = stand_in(tmp_path, monkeypatch, "echo 1, 1")
    monkeypatch.setenv("PUSHGATEWAY_URL", " ")
    with watched("request"):
        pass

    assert not calls.exists()


@pytest.mark.parametrize("label", ["", "..", "a/b", "a\nb", 'x"} 1', "é", "\udcff", "x" * 65])
def test_a_hostile_label_is_not_pushed(gateway: Gateway, label: str) -> None:
    with pytest.raises(NotPushed, match="pipeline: .* is not a label"):
        push({"conveyor_pipeline_seconds": 1}, {"pipeline": label})

    assert gateway.series("conveyor_pipeline_seconds") == {}
    push({"conveyor_pipeline_seconds": 1}, {"pipeline": "main"})
    assert gateway.series("conveyor_pipeline_seconds") == {(("pipeline", "main"),): 1}


def test_user_and_password_of_the_address_are_sent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[str, str | None]] = []

    def answer(request: Request) -> None:
        seen.append((request.path, request.headers.get("Authorization")))
        request.reply(403 if len(seen) > 1 else 200)

    with answering(answer) as url:
        place = url.removeprefix("http://")
        monkeypatch.setenv("PUSHGATEWAY_URL", f"http://me:p%40ss@{place}/push/")
        for _ in range(2):
            with watched("main"):
                pass

    path = "/push/metrics/job/conveyor/pipeline/main"
    assert seen == [(path, "Basic bWU6cEBzcw==")] * 2
    assert "the pushgateway answered 403" in capsys.readouterr().err


def test_the_command_pushes_at_the_end_of_a_pipeline(gateway: Gateway) -> None:
    command = [sys.executable, "-m", "delivery.training_metrics", "main"]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)

    assert list(gateway.series("conveyor_pipeline_seconds")) == [(("pipeline", "main"),)]
