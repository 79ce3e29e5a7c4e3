"""API keys of a file: read when it changes, and kept when it is broken."""

import hashlib
import json
from pathlib import Path

import pytest

from service.auth.keys import LOOK_SECONDS, KeyFile, parse_keys
from service.auth.roles import Role
from tests.make.mounts import mount

OLD, NEW = (hashlib.sha256(name).hexdigest() for name in (b"old", b"new"))


class Clock:
    """A time that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def text(*digests: str) -> str:
    return json.dumps(dict.fromkeys(digests, ["predict", "view"]))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(tmp_path: Path, clock: Clock) -> KeyFile:
    mount(tmp_path, "keys", {"api-keys": text(OLD)})
    path = tmp_path / "keys" / "api-keys"
    return KeyFile(path, parse_keys(path.read_text()), clock)


def test_a_changed_secret_changes_the_keys_after_a_second(
    keys: KeyFile, tmp_path: Path, clock: Clock
) -> None:
    assert keys() == {OLD: {Role.PREDICT, Role.VIEW}}
    mount(tmp_path, "keys", {"api-keys": text(NEW)})
    assert keys().keys() == {OLD}  # no look at the disk for each request
    clock.now += LOOK_SECONDS
    assert keys().keys() == {NEW}


@pytest.mark.parametrize("broken", ["", "{", '{"x": ["view"]}', '{"%s": ["admin"]}' % NEW])
def test_a_broken_file_locks_no_one_out_and_the_next_good_one_counts(
    keys: KeyFile, tmp_path: Path, clock: Clock, broken: str
) -> None:
    mount(tmp_path, "keys", {"api-keys": broken})
    clock.now += LOOK_SECONDS
    assert keys().keys() == {OLD}
    mount(tmp_path, "keys", {"api-keys": text(NEW)})
    clock.now += LOOK_SECONDS
    assert keys().keys() == {NEW}


def test_a_file_that_goes_leaves_the_keys(keys: KeyFile, tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "keys" / "api-keys").unlink()
    clock.now += LOOK_SECONDS
    assert keys().keys() == {OLD}


def test_a_secret_that_is_made_later_counts(tmp_path: Path, clock: Clock) -> None:
    keys = KeyFile(tmp_path / "keys" / "api-keys", {}, clock)
    clock.now += LOOK_SECONDS
    assert keys() == {}
    mount(tmp_path, "keys", {"api-keys": text(NEW)})
    clock.now += LOOK_SECONDS
    assert keys().keys() == {NEW}


def test_no_keys_at_all_revoke_every_key(keys: KeyFile, tmp_path: Path, clock: Clock) -> None:
    mount(tmp_path, "keys", {"api-keys": "{}"})
    clock.now += LOOK_SECONDS
    assert keys() == {}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("cvy_a-key", "it is not JSON: write JSON such as"),
        ("[" * 100_000, "it is not JSON"),
        ('["cvy_a-key"]', "it has no lists of roles"),
        ('{"%s": "view"}' % NEW, "it has no lists of roles"),
        ('{"cvy_a-key": ["view"]}', "a key is given as its SHA-256"),
        ('{"%s": ["cvy_a-key"]}' % NEW, "a role is not one of predict, view, label, deploy, train"),
        ('{"%s": [["view"]]}' % NEW, "a role is not one of"),
    ],
)
def test_a_refusal_names_the_cure_and_never_the_key(content: str, reason: str) -> None:
    with pytest.raises(ValueError, match="^[^\n]*$") as caught:
        parse_keys(content)
    assert reason in str(caught.value) and "cvy_" not in str(caught.value)
