"""Which tests are tests of the system: those that start a program, or train.

`make test-fast` leaves them out. A test starts a program when its code names `subprocess`, or when
a function of the tests that it calls does, or a fixture. So no list has to be kept by hand.
"""

import functools
import inspect
import multiprocessing
import subprocess
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

STARTERS = (subprocess, multiprocessing)
FIXTURES = {"_chips", "_trained", "_competition", "eurosat", "workdir", "url"}
"""Fixtures that run stages of the pipeline in the process of the tests, or ask for a database."""


def is_system_test(item: pytest.Item) -> bool:
    """Whether a test, or a fixture that it uses, starts a program or trains."""
    if not isinstance(item, pytest.Function):
        return False
    fixtures = item._fixtureinfo.name2fixturedefs
    functions = [item.function, *(definitions[-1].func for definitions in fixtures.values())]
    return bool(FIXTURES & fixtures.keys()) or any(map(starts_a_program, functions))


@functools.cache
def starts_a_program(function: Callable[..., Any]) -> bool:
    """Whether a function of the tests reaches a starter, through others of the tests."""
    seen: set[Any] = set()
    todo: list[Any] = [function]
    while todo:
        found = inspect.unwrap(todo.pop())
        if any(found is starter for starter in STARTERS):
            return True
        if found not in seen:
            seen.add(found)
            todo += _named(found)
    return False


def _named(found: Any) -> Iterator[Any]:
    """Starters, functions and classes that the code of a function or class of the tests names."""
    if isinstance(found, type):
        functions = [value for value in vars(found).values() if isinstance(value, FunctionType)]
    else:
        functions = [found] if isinstance(found, FunctionType) else []
    for function in functions:
        # A fixture that asks for others by name says at least what it returns.
        yield from filter(_is_ours, inspect.get_annotations(function).values())
        names = set(_names(function.__code__))
        scopes = [function.__globals__]
        for name in names & function.__globals__.keys():
            value = function.__globals__[name]
            if isinstance(value, ModuleType) and value.__name__.startswith("tests."):
                scopes.append(vars(value))
        for scope in scopes:
            yield from filter(_is_ours, (scope[name] for name in names & scope.keys()))


def _is_ours(value: Any) -> bool:
    """Whether a value is a starter, or code of the tests."""
    if any(value is starter for starter in STARTERS):
        return True
    is_code = isinstance(value, type) or callable(value) and hasattr(value, "__qualname__")
    return is_code and str(value.__module__).startswith("tests.")


def _names(code: CodeType) -> Iterator[str]:
    """Names that a function's code uses, those of the functions inside it too."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
