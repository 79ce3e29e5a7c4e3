"""Names from data stay text: rendered by a real Markdown parser, nothing in them comes alive."""

import pytest
from markdown_it import MarkdownIt

from pipeline import markdown as md

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![x](https://example.org/track.png)",
    "[click](javascript:alert(1))",
    "a | b | c",
    "`code` and ``more``",
    "`",
    "line\nbreak\r\n# heading",
    "@everyone !1 #1 :tada: ~label",
    "**bold** _it_ ~~gone~~",
    "https://example.org www.example.org",
    r"back\slash\|pipe",
    "&lt;b&gt; &amp;",
    "",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_shown_and_does_nothing(name: str) -> None:
    parser = MarkdownIt("gfm-like", {"html": True, "linkify": False})
    text = md.table(["class", "recall"], [[md.code(name), "1 %"]])
    tokens = parser.parse(text)
    cells = [token for token in tokens if token.type == "inline"]
    assert len(cells) == 4  # two heads, two cells: no bar broke out
    kinds = {child.type for child in cells[2].children or ()}
    assert kinds == {"code_inline"}
    shown = (cells[2].children or [])[0].content
    assert shown.split() == name.split() or "|" in name


def test_numbers_stand_as_they_were_written() -> None:
    text = md.table(["a", "b"], [["x", "0.10"], ["y", "1e3"]])
    assert "0.10" in text and "1e3" in text


@pytest.mark.parametrize(
    ("change", "more_is_better", "words"),
    [(0.1, True, "▲ better"), (-0.1, True, "▼ worse"), (0.1, False, "▲ worse"), (0, True, "=")],
)
def test_arrows_say_whether_it_is_good(change: float, more_is_better: bool, words: str) -> None:
    assert md.arrow(change, more_is_better) == words
