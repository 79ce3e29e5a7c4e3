"""The grammar of tags: what names a model, and the many things that do not."""

import pytest

from service.errors import Unprocessable
from service.tags import LOCAL, LONGEST, Cancellation, Tag, match_cancellation, parse_tag

GOOD = {
    "landcover@v1.2.0": Tag("landcover@v1.2.0", "version", "landcover", version="v1.2.0"),
    "landcover@v0.0.0": Tag("landcover@v0.0.0", "version", "landcover", version="v0.0.0"),
    "land-cover_2@v10.20.30-rc.1": Tag(
        "land-cover_2@v10.20.30-rc.1", "version", "land-cover_2", version="v10.20.30-rc.1"
    ),
    "landcover#production": Tag("landcover#production", "stage", "landcover", stage="production"),
    "landcover#staging#3": Tag(
        "landcover#staging#3", "stage", "landcover", stage="staging", counter=3
    ),
    "experiment/12-345": Tag("experiment/12-345", "experiment"),
}
BAD = [
    "",
    LOCAL,
    "main",
    "v1.2.0",
    "landcover",
    "landcover@1.2.0",
    "landcover@v1.2",
    "landcover@v01.2.0",
    "landcover@v1.2.0-",
    "landcover@v1.2.0-rc..1",
    "landcover@v1.2.0-01",
    "landcover@v1.2.0+build",
    "landcover@v1.2.0#3",
    "landcover@v1.2.0!",
    "landcover@latest",
    "landcover#",
    "landcover#staging#",
    "landcover#staging#x",
    "landcover#staging!#5",
    "#staging",
    "@v1.0.0",
    "-x@v1.0.0",
    "x-@v1.0.0",
    "a/b@v1.0.0",
    "../x",
    "../x@v1.0.0",
    "/etc/passwd",
    "experiment/12",
    "experiment/1-1;x",
    "experiment/1-1/../2-2",
    "Experiment/1-1",
    "refs/tags/landcover@v1.2.0",
    "$(id)",
    "$(touch x)@v1.0.0",
    "`id`",
    "--upload-pack=x",
    "--upload-pack=x@v1.0.0",
    "landcover@v1.2.0^{commit}",
    "landcover@v1.2.0~1",
    "landcover@v1.2.0:dvc.lock",
    "landcover@v1.2.0 ",
    " landcover@v1.2.0",
    "landcover@v1.2.0\n",
    "experiment/1-1\n",
    "landcover#staging\n",
    "landcover@v1.2.0\0",
    "landcover@v1.2.\N{ARABIC-INDIC DIGIT THREE}",
    "experiment/\N{FULLWIDTH DIGIT ONE}-1",
    "landcover#staging#\N{SUPERSCRIPT TWO}",
    "l\N{CYRILLIC SMALL LETTER A}ndcover@v1.0.0",
    "landcover@v1.2.0\ud800",
]


@pytest.mark.parametrize("text", GOOD)
def test_a_tag_of_the_grammar_is_read(text: str) -> None:
    assert parse_tag(text) == GOOD[text]


@pytest.mark.parametrize("text", BAD, ids=ascii)
def test_everything_else_is_refused_with_field_value_and_cure(text: str) -> None:
    with pytest.raises(Unprocessable) as refused:
        parse_tag(text)
    assert refused.value.detail.startswith("tag: ")
    assert ascii(text)[1:-1] in refused.value.detail
    assert "experiment/12-345" in refused.value.detail
    assert refused.value.detail.isascii() and refused.value.detail.isprintable()


def test_a_tag_has_a_longest_length() -> None:
    name = "x" * (LONGEST - len("@v1.0.0"))
    assert parse_tag(f"{name}@v1.0.0").name == name
    with pytest.raises(Unprocessable):
        parse_tag(f"x{name}@v1.0.0")


def test_a_very_long_text_is_refused_fast_and_not_repeated() -> None:
    with pytest.raises(Unprocessable) as refused:
        parse_tag("a-" * 1_000_000)
    assert len(refused.value.detail) < 300


@pytest.mark.parametrize("text", ["a" + "-" * 126, "a@v1.0.0-" + "0" * 119, "a#" + "-_" * 63])
def test_the_pattern_does_not_try_for_ever(text: str) -> None:
    with pytest.raises(Unprocessable):
        parse_tag(text)


def test_a_tag_that_takes_another_back_is_known_but_names_no_model() -> None:
    assert match_cancellation("landcover#production!#5") == Cancellation(
        "landcover", None, "production", 5
    )
    assert match_cancellation("landcover@v1.0.0!") == Cancellation(
        "landcover", "v1.0.0", None, None
    )
    assert match_cancellation("landcover#production") is None
    assert match_cancellation("landcover#production!\n") is None
