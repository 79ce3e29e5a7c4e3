"""Asking for another model, of servers that are not the service, or not yet."""

import json
from collections.abc import Iterator

import pytest

from delivery.errors import RolloutError
from delivery.review import hot_swap
from tests.fakes.http import Request, answering

TAG = "experiment/12-7"


class Address:
    """Gives its answers in turn, the last one for ever; keeps what it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.answers = [(200, "{}")]
        self.asked: list[tuple[str, str, object]] = []

    def answer(self, request: Request) -> None:
        self.asked.append(
            (request.path, request.headers["authorization"], json.loads(request.body))
        )
        status, text = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        request.reply(status, text.encode(), headers={"location": "/elsewhere"})


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[Address]:
    monkeypatch.setattr(hot_swap, "PAUSE", 0)
    address = Address()
    with answering(address.answer) as address.url:
        yield address


def swap(url: str, limit: float = 60) -> None:
    hot_swap.swap(url, "secret", TAG, "settings.env", limit)


def detail(text: str) -> str:
    return json.dumps({"detail": text})


def test_a_swap_request_has_the_tag_and_the_bearer_token(address: Address) -> None:
    swap(address.url)
    assert address.asked == [("/replace_ml_model", "Bearer secret", {"tag": TAG})]


def test_transient_errors_are_retried(address: Address, capsys: pytest.CaptureFixture[str]) -> None:
    address.answers = [
        (404, "default backend - 404"),
        (302, ""),
        (502, "<html>"),
        (503, detail("Git cannot be reached")),
        (409, detail("another swap is under way")),
        (200, "{}"),
    ]
    swap(address.url)
    said = capsys.readouterr().out
    assert said.count("wait  ") == 5 and "Git cannot be reached" in said
    assert "404 from another server, not the service" in said
    assert {path for path, _, _ in address.asked} == {"/replace_ml_model"}  # nowhere else


@pytest.mark.parametrize("status", [400, 404, 422, 500, 507])
def test_a_refusal_of_the_service_is_not_retried(address: Address, status: int) -> None:
    address.answers = [(status, detail("there is no such tag"))]
    with pytest.raises(RolloutError, match=f"/replace_ml_model: {status} there is no such tag"):
        swap(address.url)
    assert len(address.asked) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_error_names_the_setting(address: Address, status: int) -> None:
    address.answers = [(status, detail("no"))]
    with pytest.raises(RolloutError, match="settings.env sets whose tokens may deploy") as error:
        swap(address.url)
    assert "secret" not in str(error.value) and len(address.asked) == 1


def test_an_unreachable_address_is_named() -> None:
    with pytest.raises(RolloutError, match="no response from http://127.0.0.1:9"):
        swap("http://127.0.0.1:9", 0)


@pytest.mark.parametrize("body", ["", "[]", "null", '{"detail": 1}', "\u0000", "[" * 5000])
def test_a_malformed_response_is_reported_in_one_sentence(address: Address, body: str) -> None:
    address.answers = [(500, body)]
    with pytest.raises(RolloutError, match="/replace_ml_model: 500 "):
        swap(address.url, 0)
