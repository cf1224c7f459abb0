# SPDX-License-Identifier: MIT
"""What help() and inspect show of a client's method that is made from a function of the protocol."""

from collections.abc import Callable
from types import FunctionType, NoneType
from typing import Any, TypeVar, get_args

M = TypeVar("M", bound=Callable[..., Any])


def with_face(method: M, function: Callable[..., Any], owner: str) -> M:
    """Returns the method with the name, docstring and signature of the function that it is made from.

    The first parameter of the function is the state of the connection, in place of which the method has self;
    the method returns the outcome of the call or plan that the function returns.
    """
    _, *parameters = function.__annotations__
    annotations = {name: function.__annotations__[name] for name in parameters}
    outcome = get_args(annotations["return"])[-1]
    annotations["return"] = None if outcome is NoneType else outcome
    method.__name__, method.__qualname__ = function.__name__, f"{owner}.{function.__name__}"
    method.__doc__, method.__annotations__ = function.__doc__, annotations
    # Of which inspect takes the parameters: a Signature would take that module, which is slow to import.
    method.__dict__["__wrapped__"] = _with_self(function, annotations)
    return method


def _with_self(function: Callable[..., Any], annotations: dict[str, Any]) -> FunctionType:
    """Returns a function that is never called, with these parameters behind self."""
    code = function.__code__
    count = code.co_argcount + code.co_kwonlyargcount
    shown = FunctionType(
        _nothing.__code__.replace(
            co_argcount=code.co_argcount,
            co_kwonlyargcount=code.co_kwonlyargcount,
            co_varnames=("self", *code.co_varnames[1:count]),
            co_nlocals=count,
        ),
        {},
        function.__name__,
        function.__defaults__,
    )
    shown.__kwdefaults__, shown.__annotations__ = function.__kwdefaults__, annotations
    return shown


def _nothing() -> None:
    """A function without parameters."""
