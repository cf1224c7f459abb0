# SPDX-License-Identifier: MIT
"""Adds to values: what is to be stored in place of an object."""

from typing import Any

from bcached.client.cache.objects import Change, FoundObject, NewObject
from bcached.client.cache.serializers import Values


def adding(values: Values, name: bytes, delta: Any) -> Change:
    """Returns a change of the object of this name to its value plus delta, with the same expiry."""

    def change(found: FoundObject) -> NewObject:
        total = values.decode(found.codec, found.value) + delta
        return NewObject(name, *values.encode(total), found.expires_at_us)

    return change
