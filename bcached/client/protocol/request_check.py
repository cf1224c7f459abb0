# SPDX-License-Identifier: MIT
"""Whether a request is one, before anything is sent: its encoder takes bytes for text, and NaN for nothing.

The types and ranges are those of the request's struct, by which the daemon decodes it.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from bcached.client.arguments import shown
from bcached.errors import InvalidParameter, InvalidType, InvalidValue
from bcached.wire.messages import Parameters

P = TypeVar("P", bound=Parameters)
T = TypeVar("T")

KEPT = (bytes, bytearray, memoryview)  # else they would be text here, too, in base64
# The form of msgspec's errors.
_AT = re.compile(r" - at `(\$.*)`$")
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
_TYPES = re.compile(r"`([a-z| ]+)`")
_WRONG_TYPE, _NO_CHOICE = ", got ", "Invalid enum value"


def check_request(request: Parameters) -> None:
    """Raises InvalidType or InvalidValue unless all fields are of the types and in the ranges they have."""
    try:
        builtins = msgspec.to_builtins(request, builtin_types=KEPT, enc_hook=_of_no_type)
        msgspec.convert(builtins, type(request))
    except msgspec.ValidationError as error:
        raise _invalid(request, str(error)) from None
    except (TypeError, ValueError, RecursionError):  # of values within each other, or a dict's keys
        raise unencodable(request) from None


def request_of(kind: type[P], fields: dict[str, Any]) -> P:
    """Returns a request with these fields, which are of no struct. Raises what check_request does."""
    try:
        return msgspec.convert(fields, kind)  # made and checked at once
    except (msgspec.ValidationError, TypeError, ValueError, RecursionError):
        request = kind(**fields)
        check_request(request)
        return request


def _of_no_type(_: object) -> bytes:
    """Returns what no field of a request is, in place of an object that JSON has no form for."""
    return b""


def unencodable(request: Parameters) -> InvalidParameter:
    """Returns the error for a request that cannot be encoded."""
    for field in request.__struct_fields__:
        value = getattr(request, field)
        try:
            msgspec.json.encode(value)
        except UnicodeEncodeError:
            return InvalidValue(field, f"expected text that UTF-8 has, found {shown(value)}")
        except (TypeError, ValueError, OverflowError, RecursionError):
            return InvalidType(field, f"expected what JSON has, found {_with_type(value)}")
    return InvalidType("message", f"expected what JSON has, found {shown(request)}")


def _with_type(value: object) -> str:
    """Returns a value as an error shows it, with its type if it is none of Python's own."""
    kind = type(value)
    if kind.__module__ == "builtins" or isinstance(value, msgspec.Struct):
        return shown(value)
    return f"{kind.__module__}.{kind.__qualname__}: {shown(value)}"


def as_tuple(parameter: str, values: Iterable[T]) -> tuple[T, ...]:
    """Returns the values of a parameter that has several. Raises InvalidType for one that has none."""
    if not isinstance(values, str | bytes | msgspec.Struct):
        try:
            return tuple(values)
        except TypeError:
            pass
    raise InvalidType(parameter, f"expected several, found {shown(values)}")


def _invalid(request: Parameters, message: str) -> InvalidParameter:
    at = _AT.search(message)
    path, what = (at[1], message[: at.start()]) if at else ("$", message)
    parent, field, value = _at_path(request, path)
    hint = get_type_hints(type(parent)).get(field)
    if what.startswith(_NO_CHOICE):
        what = f"expected one of {', '.join(map(repr, _choices(hint)))}"
    expected = what.partition(_WRONG_TYPE)[0].replace("Expected", "expected")
    expected = _TYPES.sub(lambda types: _in_words(types[1], hint), expected)
    kind = InvalidType if _WRONG_TYPE in what else InvalidValue
    return kind(path.removeprefix("$."), f"{expected}, found {_with_type(value)}")


def _at_path(request: Parameters, path: str) -> tuple[object, str, object]:
    """Returns the innermost struct that a path is in, its field there, and the value at the path's end."""
    value: Any = request
    parent, name = value, ""
    for field, index in _STEP.findall(path):
        if field and isinstance(value, msgspec.Struct):
            parent, name = value, field
        if field:
            value = value[field] if isinstance(value, dict) else getattr(value, field)
        else:
            value = value[int(index)]
    return parent, name, value


def _in_words(types: str, hint: object) -> str:
    """Returns the words for types of JSON, as a caller in Python knows them."""
    names = {"null": "None", "array": "a sequence", "object": " or ".join(_structs(hint)) or "an object"}
    return " or ".join(names.get(one, one) for one in types.split(" | "))


def _structs(hint: object) -> Iterator[str]:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        yield hint.__name__
    for one in get_args(hint):
        yield from _structs(one)


def _choices(hint: object) -> Iterator[object]:
    for one in get_args(hint):
        if get_origin(hint) is Literal:
            yield one
        else:
            yield from _choices(one)
