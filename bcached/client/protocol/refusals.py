# SPDX-License-Identifier: MIT
"""Turns errors from the socket into the exceptions of bcached.errors."""

from typing import Any

import msgspec

from bcached.errors import RequestError
from bcached.keys import Key

LEAVES = {
    leaf.NAME.rpartition(".")[2]: leaf
    for leaf in RequestError.__subclasses__()
    if leaf.__module__ == RequestError.__module__
}


class UnknownRefusalError(RequestError):
    """An error unknown to this library: the daemon is newer, or not bcached."""

    NAME = "unknown"

    def __init__(self, message: str, fields: dict[str, Any]) -> None:
        super().__init__(message)
        self.fields = fields  # not as keywords: a field may have any name


def refusal_from(name: str, parameters: bytes) -> RequestError:
    """Returns the exception for an error's name and parameters."""
    fields: dict[str, Any] = msgspec.json.decode(parameters, type=dict[str, Any])
    leaf = LEAVES.get(name.rpartition(".")[2])
    try:
        if "key" in fields:
            fields["key"] = msgspec.convert(fields["key"], Key)
        if leaf is not None:
            return leaf(**fields)
    except (TypeError, msgspec.ValidationError):  # fields of another version
        pass
    return UnknownRefusalError(f"{name}: {fields}", fields)
