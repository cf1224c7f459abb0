# SPDX-License-Identifier: MIT
"""The error for a message that could not be decoded: varlink's own, with the name at fault.

This is the slow path, taken only after the fast decode has failed.
"""

import re
from typing import Any

import msgspec

from bcached.errors import InterfaceNotFound, InvalidParameter, MethodNotFound, RequestError
from bcached.wire.client_codec import UNREADABLE
from bcached.wire.interfaces import INTERFACES
from bcached.wire.methods import METHODS

ECHO_CHARACTERS = 200  # how much of a client's input an error repeats

# The form of msgspec's errors; a test checks each of them.
_AT = re.compile(r" - at `(\$.*)`$")
_FIELD = re.compile(r"^Object (missing required|contains unknown) field `(.*)`$", re.DOTALL)
_TYPE = re.compile(r"`(int|str|float|bool|object|array|null)`")
_PARAMETER = re.compile(r"^\$\.(?:parameters\.)?([^.\[]+)")


TYPES = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "object": "an object",
    "array": "an array",
    "null": "null",
}


class _Head(msgspec.Struct):
    method: str
    oneway: Any = None


_head = msgspec.json.Decoder(_Head)


def refusal_of(message: bytes, error: Exception) -> RequestError:
    """Returns the error to reply to a message with, given what its decoding raised."""
    try:
        head = _head.decode(message)
    except msgspec.ValidationError:
        return InvalidParameter("method", "expected a JSON object whose method is a string")
    except UNREADABLE as unreadable:
        return InvalidParameter("message", f"not JSON: {str(unreadable)[:ECHO_CHARACTERS]}")
    refusal = _refusal_of(head.method, error)
    refusal.oneway = head.oneway is True
    return refusal


def _refusal_of(name: str, error: Exception) -> RequestError:
    if name not in METHODS:
        interface = name.rpartition(".")[0]
        if interface in INTERFACES:
            return MethodNotFound(name[:ECHO_CHARACTERS])
        return InterfaceNotFound(interface[:ECHO_CHARACTERS])
    return _invalid_parameter(name, str(error))


def _type_in_words(name: re.Match[str]) -> str:
    """Returns the words for a type of JSON."""
    return TYPES[name[1]]


def _invalid_parameter(method: str, message: str) -> InvalidParameter:
    at = _AT.search(message)
    path = at[1] if at else "$"
    what = message[: at.start()] if at else message
    field = _FIELD.match(what)
    what = _TYPE.sub(_type_in_words, what).replace("Expected", "expected").replace(" got ", " found ")
    if field and path in ("$", "$.parameters"):
        parameter = field[2]
        if parameter == "parameters":  # left out as a whole: report the first required one
            parameter = next(
                one.name for one in msgspec.structs.fields(METHODS[method].parameters) if one.required
            )
    else:
        named = _PARAMETER.match(path)
        parameter = named[1] if named else "message"
        if named and named.end() < len(path):  # somewhere within the parameter
            what = f"{what} at {parameter}{path[named.end() :]}"
    return InvalidParameter(parameter[:ECHO_CHARACTERS], what[:ECHO_CHARACTERS])
