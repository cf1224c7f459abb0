# SPDX-License-Identifier: MIT
"""Adds to values: what is to be stored in place of an object."""

from typing import Any

from bcached.client.cache.values.new_object import Change, FoundObject, NewObject
from bcached.client.cache.values.serializers import Values


def adding(values: Values, name: bytes, delta: Any) -> Change:
    """Returns a change of the object of this name, if there is one, to its value plus delta."""

    def change(found: FoundObject | None) -> NewObject | None:
        if found is None:
            return None
        total = values.decode(found.codec, found.value) + delta
        return NewObject(name, *values.encode(total), found.expires_at_us)

    return change
