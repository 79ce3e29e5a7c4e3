"""What pydantic has against a document, in plain words."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

LONGEST = 300  # letters; documents can come from anywhere
KINDS = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    "finite_number": "a finite number",
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    "string_type": "a text",
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "frozen_set_type"), "a list"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "a mapping"),
}
"""pydantic's type of an error -> what is wanted."""
LIMITS = {
    "literal_error": "one of {expected}",
    "enum": "one of {expected}",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "string_pattern_mismatch": "a text like {pattern}",
}
"""The same, of errors with a limit."""


def wanted(problem: Mapping[str, Any]) -> str:
    """What one of pydantic's errors asks for: `wanted a whole number`."""
    kind, context = problem["type"], problem.get("ctx", {})
    if text := KINDS.get(kind) or LIMITS.get(kind, "").format(**context):
        return f"wanted {text}"
    if kind == "missing":
        return "it is missing"
    if kind == "extra_forbidden":
        return "it is not known here"
    if kind == "json_invalid":
        return f"not JSON ({context['error']})"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return message if kind == "value_error" else message[:1].lower() + message[1:]


def first_fault(error: ValidationError, whole: str = "the document") -> str:
    """The first error with its field: `input.scale: wanted a number`.

    `whole` stands for the field where the document as a whole is wrong.
    """
    problem = error.errors(include_url=False)[0]
    text = f"{'.'.join(map(str, problem['loc'][:4])) or whole}: {wanted(problem)}"
    return "".join(letter if letter.isprintable() else " " for letter in text[:LONGEST])
