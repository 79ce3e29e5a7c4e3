"""The smoke test against the real service, and against servers that are not what they should be."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from delivery.errors import RolloutError
from delivery.rollout.smoke_test import Expected, Refused, SmokeTest, expectation, read_bundle
from service.auth.roles import new_key
from tests.conftest import ROOT
from tests.fakes import http as fakes_http
from tests.fakes.http import Handler
from tests.make import harbours, maps
from tests.make.bundles import make_bundle
from tests.make.server import Server, serving

TOKEN, TOKEN_HASH = new_key()
VIEWER, VIEWER_HASH = new_key()
TAG = "landcover@v1.2.0"
KEYS = json.dumps({TOKEN_HASH: ["predict", "view"], VIEWER_HASH: ["view"]})


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle that is served."""
    return make_bundle(tmp_path_factory.mktemp("smoke") / "model", seed=1)


@pytest.fixture(scope="module")
def stage(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that needs keys, as in a cluster."""
    folder = tmp_path_factory.mktemp("stage")
    with serving(bundle, folder, tag=TAG, api_keys=KEYS, open_roles="[]") as running:
        yield running


def smoke(url: str, expected: Expected, token: str = TOKEN, limit: float = 0) -> list[str]:
    """Run it without a word."""
    return SmokeTest(url, expected, token).run(limit, report=lambda line: None)


def test_the_right_version_passes_every_check(stage: Server, bundle: Path) -> None:
    ready, version, golden = smoke(stage.url, read_bundle(TAG, bundle))
    assert ready == "ready: 200"
    assert version == f"version: {TAG} in all of 2 workers, 6 requests"
    assert golden.startswith("golden: 2 chips within 0.001")


def test_without_a_bundle_the_samples_of_the_service_are_predicted(stage: Server) -> None:
    assert smoke(stage.url, Expected(TAG))[-1] == "samples: 2 correct"


def test_a_model_that_maps_is_compared_by_the_shares_of_its_golden_map(tmp_path: Path) -> None:
    mapping = maps.make_bundle(tmp_path / "model")
    with serving(mapping, tmp_path, workers=1, tag=TAG, api_keys=KEYS, open_roles="[]") as server:
        golden = smoke(server.url, read_bundle(TAG, mapping))[-1]
        assert golden.startswith("golden: 1 chips within 0.001")
        assert smoke(server.url, Expected(TAG))[-1] == "samples: 1 correct"
        other = read_bundle(TAG, maps.make_bundle(tmp_path / "other", seed=1))
        with pytest.raises(RolloutError, match="golden: chip 0 is .* off: another model"):
            smoke(server.url, other._replace(sha256=""))


def test_a_model_that_finds_objects_is_compared_by_their_number(tmp_path: Path) -> None:
    finding = harbours.make_bundle(tmp_path / "model")
    with serving(finding, tmp_path, workers=1, tag=TAG, api_keys=KEYS, open_roles="[]") as server:
        expected = read_bundle(TAG, finding)
        assert smoke(server.url, expected)[-1].startswith("golden: 2 chips within 0.001")
        assert smoke(server.url, Expected(TAG))[-1] == "samples: 2 correct"
        golden = [item._replace(expected={"ship": 7, "tank": 0}) for item in expected.golden]
        with pytest.raises(RolloutError, match="golden: chip 0 is .* off: another model"):
            smoke(server.url, expected._replace(golden=tuple(golden)))


def test_another_tag_fails(stage: Server) -> None:
    with pytest.raises(RolloutError, match=rf"version: '{TAG}' serves, not landcover@v1.3.0"):
        smoke(stage.url, Expected("landcover@v1.3.0"))


def test_another_model_under_the_right_tag_fails(stage: Server, tmp_path: Path) -> None:
    other = read_bundle(TAG, make_bundle(tmp_path / "other", seed=2))
    with pytest.raises(RolloutError, match=f"{TAG} is the model"):
        smoke(stage.url, other)
    with pytest.raises(RolloutError, match="golden: chip 0 is .* off"):
        smoke(stage.url, other._replace(sha256=""))


def test_a_model_with_other_classes_fails(stage: Server, tmp_path: Path) -> None:
    classes = [f"class-{number}" for number in range(10)]
    other = read_bundle(TAG, make_bundle(tmp_path / "other", seed=1, classes=classes))
    with pytest.raises(RolloutError, match="golden: chip 0 got other classes"):
        smoke(stage.url, other)


@pytest.mark.parametrize("token", ["", "cvy_unknown", VIEWER], ids=["none", "unknown", "viewer"])
def test_refused_credentials_are_not_tried_again(stage: Server, bundle: Path, token: str) -> None:
    with pytest.raises(Refused, match="SMOKE_TOKEN must be a key"):
        smoke(stage.url, read_bundle(TAG, bundle), token, limit=1000)


def test_the_smoke_test_waits_for_a_service_that_starts(bundle: Path) -> None:
    lines: list[str] = []
    pods: list[subprocess.Popen[bytes]] = []
    with imitating({"/readyz": 503}) as server:
        url = f"http://127.0.0.1:{server.server_port}"

        def report(line: str) -> None:
            lines.append(line)
            if len(lines) == 1:  # it was not ready once; now a pod takes the address over
                server.shutdown()
                server.server_close()
                variables = {"PORT": str(server.server_port), "SERVICE_TAG": TAG}
                words = [sys.executable, "-I", str(ROOT / "tests/fakes/pod.py")]
                folders = {"SERVICE_BUNDLE": str(bundle), "SERVICE_STATE": str(bundle.parent)}
                environment = os.environ | variables | folders
                pods.append(subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL))

        try:
            SmokeTest(url, read_bundle(TAG, bundle), TOKEN).run(60, report)
        finally:
            for pod in pods:
                pod.kill()
                pod.wait()
    assert lines[0] == "wait  /readyz: 503"
    checks = [line.split(":")[0] for line in lines[-3:]]
    assert checks == ["ok    ready", "ok    version", "ok    golden"]


def test_an_unreachable_address_is_named(bundle: Path) -> None:
    with pytest.raises(RolloutError, match="no response from http://127.0.0.1:9"):
        smoke("http://127.0.0.1:9", read_bundle(TAG, bundle))


def test_another_server_fails_with_a_sentence() -> None:
    cases = [
        ("<html>", "the response is not JSON"),
        ("[]", "does not respond like the service"),
        ('{"model": 1}', "does not respond like the service"),
        ('{"model": null, "workers": []}', "version: None serves"),
        (json.dumps({"model": {"tag": TAG}, "workers": [{"tag": "local"}]}), "'local' serves"),
    ]
    for body, reason in cases:
        with imitating({}, body) as server, pytest.raises(RolloutError, match=reason):
            smoke(f"http://127.0.0.1:{server.server_port}", Expected(TAG))


def test_a_redirect_is_not_followed() -> None:
    with imitating({"/readyz": 302}) as server, pytest.raises(RolloutError, match="/readyz: 302"):
        smoke(f"http://127.0.0.1:{server.server_port}", Expected(TAG))


def test_invalid_addresses_are_refused() -> None:
    for url in ("", "landcover.example.com", "file:///etc/passwd", "https://me:secret@example.com"):
        with pytest.raises(Refused, match="url: "):
            SmokeTest(url, Expected(TAG))


def test_the_token_travels_encrypted_or_not_far() -> None:
    with pytest.raises(Refused, match="is not encrypted"):
        SmokeTest("http://landcover.example.com", Expected(TAG), TOKEN)
    with pytest.raises(Refused, match="is not encrypted"):
        SmokeTest("http://127.0.0.1.example.com", Expected(TAG), TOKEN)
    SmokeTest("http://landcover.example.com", Expected(TAG))
    for host in ("127.0.0.1:8000", "localhost", "landcover.landcover-staging.svc", "[::1]:8000"):
        SmokeTest(f"http://{host}", Expected(TAG), TOKEN)


def test_a_token_that_no_header_can_carry_is_refused() -> None:
    with pytest.raises(Refused, match="SMOKE_TOKEN") as error:
        SmokeTest("https://example.com", Expected(TAG), "secret\nx-role: deploy")
    assert "secret" not in str(error.value)


def test_an_unreadable_bundle_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"[]", b"{}", b'{"golden": [1]}', b'{"golden": 1}'):
        (tmp_path / "model.json").write_bytes(content)
        with pytest.raises(Refused, match="bundle: .* is not of schema 1"):
            read_bundle(TAG, tmp_path)


def test_a_bundle_with_a_broken_golden_chip_is_refused(bundle: Path, tmp_path: Path) -> None:
    manifest = json.loads((bundle / "model.json").read_bytes())
    manifest["golden"][0]["chip"] = "AAAA"
    (tmp_path / "model.json").write_text(json.dumps(manifest))
    with pytest.raises(Refused, match="bundle: .* is not of schema 1"):
        read_bundle(TAG, tmp_path)


def test_digest_and_bundle_have_to_agree(bundle: Path) -> None:
    assert expectation(TAG, "", None) == Expected(TAG)
    with pytest.raises(Refused, match="sha256: the bundle in .* is"):
        expectation(TAG, "0" * 64, bundle)
    with pytest.raises(Refused, match="sha256: 'abc' is not a SHA-256"):
        expectation(TAG, "abc", None)


def test_the_command_prints_a_line_a_check_and_ends_with_a_sentence(
    stage: Server, bundle: Path
) -> None:
    words = [sys.executable, "-m", "delivery.smoke", stage.url, "--bundle", str(bundle)]
    environment = os.environ | {"SMOKE_TOKEN": TOKEN}
    good = subprocess.run(
        [*words, "--version", TAG], env=environment, capture_output=True, text=True, check=True
    )
    assert [line[:6] for line in good.stdout.splitlines()] == ["ok    "] * 3
    bad = subprocess.run(
        [*words, "--version", "landcover@v9.0.0", "--limit=0"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert bad.returncode == 1 and bad.stderr.startswith("error: version: ")
    assert TOKEN not in bad.stdout + bad.stderr


class Imitation(Handler[tuple[dict[str, int], str]]):
    """Answers everything with the same body."""

    def do_GET(self) -> None:
        statuses, body = self.state
        status = statuses.get(self.path, 200)
        self.reply(status, body.encode(), headers={"Location": "/elsewhere"})


@contextmanager
def imitating(statuses: dict[str, int], body: str = "{}") -> Iterator[fakes_http.Server[Any]]:
    """A server that is not the service."""
    with fakes_http.Server(Imitation, (statuses, body)) as server:
        arguments = {"poll_interval": 0.02}
        threading.Thread(target=server.serve_forever, kwargs=arguments, daemon=True).start()
        yield server
        server.shutdown()
