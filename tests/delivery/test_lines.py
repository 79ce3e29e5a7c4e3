"""Lines KEY=VALUE: each is read, or is an error with its number and no value."""

import pytest

from delivery.errors import ValuesError
from delivery.lines import read_lines


def test_values_comments_quotes_and_empty_lines_are_read() -> None:
    text = "# note\n\nA=1\nexport B = 'two words' # why\nC=\nD=a$b#c\r\n"
    assert read_lines(text, "x.env") == {"A": "1", "B": "two words", "D": "a$b#c"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A=1\nhidden", "x.env, line 2: it is no KEY=VALUE: correct it"),
        ("A=1\nhidden words", "x.env, line 2: it is no KEY=VALUE"),
        ('A=1\nB="hidden\nC=2', "x.env, line 2: it is no KEY=VALUE: .* close each quote"),
        ("A=hidden\nB=2\nA=", "x.env, line 3: 'A' is there twice: keep one"),
    ],
)
def test_a_line_that_cannot_be_read_is_an_error_with_its_number(text: str, said: str) -> None:
    with pytest.raises(ValuesError, match=said) as caught:
        read_lines(text, "x.env")
    assert "hidden" not in str(caught.value)
