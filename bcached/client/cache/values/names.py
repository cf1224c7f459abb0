# SPDX-License-Identifier: MIT
"""Names of objects and the slots of a volume in which they are kept.

A slot is a range of sectors, chosen by a hash of the name. Two names in one slot replace each other, which is
a miss and never another object's value, since each object contains its name.
"""

from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import Any

from bcached.client.arguments import several, shown, utf8

SLOT_BITS = 44
SLOT_SECTORS = 1 << 17  # 64 MiB
RECORD_SECTORS = 128  # at the end of a slot, for an expiry that was changed after the object was stored
RECORD_AT = SLOT_SECTORS - RECORD_SECTORS
ALL_SECTORS = SLOT_SECTORS << SLOT_BITS
NAME_BYTES_MAX = 4000  # so that header and name fit a page
PAIR = 2  # a name and a value

Name = str | bytes

_DIGEST_BYTES = 8


def name_bytes(name: Name) -> bytes:
    """Returns the name as bytes: a str and its UTF-8 are one name. Raises TypeError or ValueError."""
    if isinstance(name, str):
        name = utf8("a name", name)
    elif not isinstance(name, bytes):
        raise TypeError(f"a name is str or bytes, not {type(name).__name__}")
    if len(name) > NAME_BYTES_MAX:
        raise ValueError(f"a name has at most {NAME_BYTES_MAX} bytes, this one {len(name)}")
    return name


def named_values(values: Mapping[Any, Any] | Iterable[tuple[Name, Any]]) -> Iterator[tuple[Name, Any]]:
    """Yields the pairs of several values, after all names of a mapping have been checked.

    Raises TypeError for what is neither a mapping nor pairs.
    """
    if isinstance(values, Mapping):
        for name in values:
            name_bytes(name)
        yield from values.items()
        return
    for pair in several("pairs of a name and a value", values):
        if not isinstance(pair, tuple | list) or len(pair) != PAIR:
            raise TypeError(f"expected a pair of a name and a value, found {shown(pair)}")
        yield pair[0], pair[1]


def offset_of(name: bytes) -> int:
    """Returns the first sector of the slot that the name is kept in."""
    digest = blake2b(name, digest_size=_DIGEST_BYTES).digest()
    return (int.from_bytes(digest, "little") >> (8 * _DIGEST_BYTES - SLOT_BITS)) * SLOT_SECTORS
