"""Parses tags of requests; a refusal explains the grammar."""

from contracts.tags import LONGEST, Tag, match_tag
from service.errors import Unprocessable


def parse_tag(text: str) -> Tag:
    """Check a text that came from outside.

    Raises:
        Unprocessable: it is not a tag of this grammar.
    """
    if (tag := match_tag(text)) is None:
        shown = text if len(text) <= 64 else text[:64] + "..."
        raise Unprocessable(
            f"tag: {shown!a} is not a tag of a model; write name@v1.2.3, name#stage, "
            f"name#stage#4 or experiment/12-345, in at most {LONGEST} characters"
        )
    return tag
