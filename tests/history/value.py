# SPDX-License-Identifier: GPL-2.0-only
"""Values that tell who stored them, under which name, and whether they are whole."""

import struct

HEAD = struct.Struct("<QIHH")  # token, name, volume, and the length's low bits
MASK = 0xFFFF


def value_of(token: int, name: int, volume: int, length: int) -> bytes:
    """Returns a value of at least 16 bytes: the head, repeated."""
    head = HEAD.pack(token, name, volume, length & MASK)
    return (head * (-(-length // HEAD.size)))[:length]


def token_of(value: object, name: int, volume: int) -> int | None:
    """Returns the token of a value, 0 for None; None if it was never stored under this name."""
    if value is None:
        return 0
    if not isinstance(value, bytes) or len(value) < HEAD.size:
        return None
    token, its_name, its_volume, _ = HEAD.unpack_from(value)
    if (its_name, its_volume) != (name, volume) or value != value_of(token, name, volume, len(value)):
        return None
    return int(token)
