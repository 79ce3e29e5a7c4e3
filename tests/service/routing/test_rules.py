"""`routing.yaml`: what it may say, and the sentence for what it may not."""

import pytest

from service.routing.rules import Rules, RulesRefused, read_rules

WHOLE = b"""
name: trial-12
arms: {default: 0.9, landcover@v1.2.0: 0.1}
sticky: X-User-Id
shadow: landcover#staging
learn: {floor: 0.05, labels: 100}
guard: {requests: 20, errors: 0.1, latency_ms: 80, confidence: 0.5}
"""


def refused(text: str | bytes) -> str:
    with pytest.raises(RulesRefused) as error:
        read_rules(text.encode() if isinstance(text, str) else text)
    return str(error.value)


def test_a_file_says_who_answers_which_share() -> None:
    rules = read_rules(WHOLE)
    assert rules.arms == {"default": 0.9, "landcover@v1.2.0": 0.1}
    assert rules.sticky == "x-user-id"
    assert rules.enabled and rules.learn and rules.guard
    assert (rules.learn.labels, rules.guard.latency_ms) == (100, 80)


def test_most_of_it_can_be_left_out() -> None:
    assert read_rules(b"name: one\narms: {default: 1}") == Rules(name="one", arms={"default": 1.0})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty: write name and arms"),
        ("# nothing\n", "it is empty"),
        ("name: [\n", "line 2: not YAML"),
        (b"\xff\xfe\x00", "not YAML"),
        ("!!python/object/apply:os.system [ls]", "not YAML"),
        ("[" * 5000, "not YAML"),
        ("x" * 70_000, "70000 bytes, wanted at most 65536"),
        ("- a\n- b\n", "the file: wanted a mapping"),
        ("name: one", "arms: it is missing"),
        ("arms: {default: 1}", "name: it is missing"),
        ("name: One two\narms: {default: 1}", "name: wanted a text like"),
        ("name: one\narms: {}", "arms: 0 arms, wanted 1 to 8"),
        ("name: one\narms: {default: 0.9, a@v1.0.0: 0.2}", "the shares sum to 1.1, wanted 1"),
        ("name: one\narms: {default: 0.5, a@v1.0.0: 0.4}", "the shares sum to 0.9, wanted 1"),
        ("name: one\narms: {default: -1, a@v1.0.0: 2}", "arms.default: wanted at least 0"),
        ("name: one\narms: {default: .nan}", "arms.default: wanted"),
        ("name: one\narms: {default: half}", "arms.default: wanted a number"),
        ("name: one\narms: {'$(id)': 1}", "'$(id)' is not the name of a model: write default"),
        ("name: one\narms: {'a#staging#3': 1}", "name the stage alone"),
        ("name: one\narms: {default: 1}\nshdow: a#staging", "shdow: it is not known here"),
        ("name: one\narms: {default: 1}\nshadow: 'a b'", "shadow: 'a b' is not the name"),
        ("name: one\narms: {default: 1}\nenabled: 'no'", "enabled: wanted true or false"),
        ("name: one\narms: {default: 1}\nsticky: 'a b'", "is not the name of a caller's header"),
        ("name: one\narms: {default: 1}\nsticky: Authorization", "write x-user-id"),
        ("name: one\narms: {default: 1}\nlearn: {floor: 2}", "learn.floor: wanted at most 1"),
        (
            "name: one\narms: {default: 0.5, a@v1.0.0: 0.5}\nlearn: {floor: 0.6}",
            "learn.floor: 0.6 for each of 2 arms is more than 1: write at most 0.5",
        ),
        ("name: one\narms: {default: 1}\nguard: {latency_ms: 0}", "guard.latency_ms: wanted more"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_a_sentence(text: str | bytes, said: str) -> None:
    assert said in refused(text)
