# SPDX-License-Identifier: MIT
"""Objects as the verbs have them: one that was found, one to be stored, and what is made of the first."""

from collections.abc import Callable

import msgspec

from bcached.client.cache.values.object_format import StoredObject


class FoundObject(msgspec.Struct, frozen=True, gc=False):
    """An object that was found."""

    codec: int
    value: bytes
    expires_at_us: int


class NewObject(msgspec.Struct, frozen=True, gc=False):
    """An object to be stored."""

    name: bytes
    codec: int
    value: bytes | memoryview
    expires_at_us: int


# Returns what is to be stored in place of what was found, if anything was; None to leave it as it is.
Change = Callable[[FoundObject | None], NewObject | None]


def found_object(one: StoredObject | None) -> FoundObject | None:
    """Returns what a verb is to know of a stored object."""
    return None if one is None else FoundObject(one.seal.codec, one.value, one.seal.expires_at_us)


def only_if_absent(one: NewObject) -> Change:
    """Returns a change that stores this object if there is none."""
    return lambda found: one if found is None else None
