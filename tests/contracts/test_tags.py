"""The one grammar of tags: every package and the rules of CI read the same texts alike."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from contracts.tags import (
    COUNTER,
    GRAMMAR,
    LOCAL,
    LONGEST,
    NAME,
    PATTERN,
    STAGES,
    STAGE,
    Assignment,
    Cancellation,
    Experiment,
    Tag,
    Version,
    match_cancellation,
    match_tag,
)
from delivery.errors import TagError
from delivery.tags import experiment_tag, parse_assignment, parse_stage, parse_version
from pipeline.params import Model
from service.errors import Unprocessable
from service.tags import parse_tag
from tests.conftest import ROOT
from tests.make.injection_strings import HOSTILE

TAGS: dict[str, Tag] = {
    "landcover@v1.2.0": Version("landcover", (1, 2, 0)),
    "landcover@v0.0.0": Version("landcover", (0, 0, 0)),
    "land-cover2@v10.20.30": Version("land-cover2", (10, 20, 30)),
    "landcover@v999999999.0.0": Version("landcover", (999_999_999, 0, 0)),
    "a@v1.0.0": Version("a", (1, 0, 0)),
    f"{'x' * 63}@v1.0.0": Version("x" * 63, (1, 0, 0)),
    "landcover#staging#3": Assignment("landcover", "staging", 3),
    "landcover#production#12": Assignment("landcover", "production", 12),
    "landcover#production": Assignment("landcover", "production", 0),
    "landcover#review-1": Assignment("landcover", "review-1", 0),
    "experiment/12-345": Experiment(12, 345),
}
CANCELLATIONS: dict[str, Version | Assignment] = {
    "landcover@v1.0.0!": Version("landcover", (1, 0, 0)),
    "landcover@v1.0.0!#4": Version("landcover", (1, 0, 0)),
    "landcover#production!#5": Assignment("landcover", "production", 5),
    "landcover#production!": Assignment("landcover", "production", 0),
}
OTHERS = [
    *HOSTILE,
    *CANCELLATIONS,
    LOCAL,
    "main",
    "v1.2.0",
    "landcover",
    "landcover@1.2.0",
    "landcover@v1.2",
    "landcover@v1.2.0.0",
    "landcover@v01.2.0",
    "landcover@v1.2.0-rc.1",
    "landcover@v1.2.0+build",
    "landcover@v9999999999.0.0",
    "landcover@v1.2.0#3",
    "landcover@latest",
    "Landcover@v1.0.0",
    "land_cover@v1.0.0",
    "2land@v1.0.0",
    f"{'x' * 64}@v1.0.0",
    "@v1.0.0",
    "-x@v1.0.0",
    "x-@v1.0.0",
    "a/b@v1.0.0",
    "../x@v1.0.0",
    "landcover#",
    "#staging",
    "landcover#staging#",
    "landcover#staging#0",
    "landcover#staging#03",
    "landcover#staging#1234567890",
    "landcover#staging#x",
    "landcover#Staging",
    "landcover#staging#3#4",
    "experiment/12",
    "experiment/01-1",
    "experiment/1-1;x",
    "experiment/1-1/../2-2",
    "experiment/1-1\n",
    "Experiment/1-1",
    "refs/tags/landcover@v1.2.0",
    "landcover@v1.2.0^{commit}",
    "landcover@v1.2.0~1",
    "landcover@v1.2.0:dvc.lock",
    "landcover@v1.2.0 ",
    " landcover@v1.2.0",
    "landcover@v1.2.\N{ARABIC-INDIC DIGIT THREE}",
    "experiment/\N{FULLWIDTH DIGIT ONE}-1",
    "landcover#staging#\N{SUPERSCRIPT TWO}",
    "l\N{CYRILLIC SMALL LETTER A}ndcover@v1.0.0",
    "landcover@v1.2.0\ud800",
]

everywhere = settings(derandomize=True, database=None, deadline=None)
names = st.from_regex(NAME, fullmatch=True)
numbers = st.integers(0, 999_999_999)
versions = st.builds(Version, names, st.tuples(numbers, numbers, numbers))
stages = st.from_regex(STAGE, fullmatch=True)
assignments = st.builds(Assignment, names, stages, numbers)
experiments = st.builds(Experiment, *[st.integers(0, 10**18 - 1)] * 2)
near_tags = st.from_regex(PATTERN, fullmatch=True) | st.text("abZ_-@#!v.019/ \n", max_size=30)


def ci_patterns() -> list[str]:
    """The patterns that the pipeline compares a tag with."""
    texts = [
        (ROOT / name).read_text("utf-8") for name in ("templates/base.yml", "templates/deploy.yml")
    ]
    return [pattern for text in texts for pattern in re.findall(r"TAG =~ /(.*)/$", text, re.M)]


@pytest.mark.parametrize("text", TAGS)
def test_a_tag_is_read_and_written_back(text: str) -> None:
    assert match_tag(text) == TAGS[text] and type(match_tag(text)) is type(TAGS[text])
    assert TAGS[text].tag == text
    assert match_cancellation(text) is None


def test_a_tag_that_takes_another_back_names_what_it_takes_back() -> None:
    found = {text: match_cancellation(text) for text in CANCELLATIONS}
    assert found == {text: Cancellation(tag) for text, tag in CANCELLATIONS.items()}


def test_no_other_text_is_a_tag_anywhere() -> None:
    for text in OTHERS:
        assert match_tag(text) is None, ascii(text)
        assert text in CANCELLATIONS or match_cancellation(text) is None, ascii(text)
        assert not re.search(PATTERN.replace("$", r"\Z"), text), ascii(text)
        assert not any(re.search(it.replace("$", r"\Z"), text) for it in ci_patterns()), text


@everywhere
@given(versions | assignments | experiments)
def test_what_can_be_written_can_be_read(tag: Tag) -> None:
    assert match_tag(tag.tag) == tag
    assert len(tag.tag) <= LONGEST


@everywhere
@given(near_tags)
def test_a_tag_has_one_spelling_and_the_documented_pattern(text: str) -> None:
    tag = match_tag(text)
    assert (tag is not None) == bool(re.fullmatch(PATTERN, text))
    assert tag is None or tag.tag == text


@everywhere
@given(assignments | st.builds(Assignment, names, st.sampled_from(STAGES), numbers))
def test_ci_starts_a_pipeline_for_the_assignments_to_its_stages_and_for_no_other(
    assignment: Assignment,
) -> None:
    started = [bool(re.search(pattern, assignment.tag)) for pattern in ci_patterns()]
    stage = assignment.stage
    assert started == [stage in STAGES, *(stage == it for it in STAGES)]


@pytest.mark.parametrize("pattern", ci_patterns())
def test_every_tag_that_ci_starts_a_pipeline_for_can_be_rolled_out(pattern: str) -> None:
    @everywhere
    @given(st.from_regex(pattern, fullmatch=True).map(str.strip))
    def holds(text: str) -> None:
        assert parse_stage(parse_assignment(text).stage)

    holds()


def test_ci_says_the_grammar_and_nothing_of_its_own() -> None:
    alike = [f"^{NAME}#{stage}(#{COUNTER})?$" for stage in ("(staging|production)", *STAGES)]
    assert ci_patterns() == alike
    assert GRAMMAR["assignment"].startswith(NAME)


@everywhere
@given(names)
def test_a_model_that_params_can_name_can_be_registered_assigned_and_served(name: str) -> None:
    assert Model(name=name, network="resnet", width=12, dropout=0).name == name
    assert parse_version("1.0.0", name) == Version(name, (1, 0, 0))
    assert parse_tag(f"{name}#staging#1") == Assignment(name, "staging", 1)


@pytest.mark.parametrize("name", ["", "Landcover", "land_cover", "2land", "-x", "x-", "x" * 64])
def test_a_name_that_no_tag_can_have_is_not_taken_by_params(name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        Model(name=name, network="resnet", width=12, dropout=0)


def test_versions_are_ordered_by_number_not_by_text() -> None:
    texts = ["landcover@v10.0.0", "landcover@v2.0.0", "landcover@v1.10.0", "landcover@v1.9.0"]
    assert [version.tag for version in sorted(map(parse_version, texts))] == texts[::-1]


@everywhere
@given(versions)
def test_a_release_is_a_label_a_file_name_and_a_tag_of_an_image(version: Version) -> None:
    assert re.fullmatch(r"[a-z][-.a-z0-9]*", version.release)


def test_a_very_long_text_is_refused_fast() -> None:
    for text in ("a-" * 1_000_000, "a@v" + "1" * 1_000_000, "a#" + "b-" * 1_000_000):
        assert match_tag(text) is None and match_cancellation(text) is None


# The doors: the same grammar, and a refusal in the words of each package.


@pytest.mark.parametrize("text", ["landcover@v1.2.0-rc.1", "$(touch pwned)\x1b[2J\ud800"])
def test_the_service_refuses_with_field_value_and_cure(text: str) -> None:
    with pytest.raises(Unprocessable) as refused:
        parse_tag(text)
    assert_reads_well(refused.value.detail, "tag", text, "experiment/12-345")


@pytest.mark.parametrize("text", ["landcover@v1.2.0-rc.1", "$(touch pwned)\x1b[2J\ud800"])
def test_delivery_refuses_with_field_value_and_cure(text: str) -> None:
    for parse, field, cure in (
        (parse_version, "version", "landcover@v1.2.0"),
        (parse_assignment, "tag", "landcover#staging#3"),
        (parse_stage, "stage", "staging, production"),
        (lambda it: experiment_tag(it, "1"), "merge request", "number of GitLab"),
        (lambda it: experiment_tag("1", it), "pipeline", "number of GitLab"),
    ):
        with pytest.raises(TagError) as refused:
            parse(text)
        assert_reads_well(str(refused.value), field, text, cure)


def test_each_door_of_delivery_takes_its_own_kind_alone() -> None:
    for text, tag in TAGS.items():
        for parse, kind in ((parse_version, Version), (parse_assignment, Assignment)):
            if isinstance(tag, kind):
                assert parse(text) == tag
            else:
                with pytest.raises(TagError):
                    parse(text)


def test_a_number_alone_means_the_version_of_the_model_in_question() -> None:
    for text in ("landcover@v1.2.0", "v1.2.0", "1.2.0"):
        assert parse_version(text, "landcover") == Version("landcover", (1, 2, 0))
    for text in ("v1.2.0", "1.2.0"):
        with pytest.raises(TagError, match="version"):
            parse_version(text)


def test_an_experiment_is_named_by_merge_request_and_pipeline() -> None:
    assert experiment_tag("12", "345") == "experiment/12-345"


def test_a_very_long_text_is_not_repeated() -> None:
    for parse in (parse_tag, parse_version, parse_assignment, parse_stage):
        with pytest.raises((TagError, Unprocessable)) as refused:
            parse("a-" * 100_000)
        assert len(str(refused.value)) < 300


def assert_reads_well(message: str, field: str, value: str, cure: str) -> None:
    assert message.startswith(f"{field}: ")
    assert ascii(value) in message
    assert cure in message
    assert message.isascii() and message.isprintable()
