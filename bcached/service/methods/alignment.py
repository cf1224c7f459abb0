"""Whole blocks: what the socket takes in sectors, the set keeps in blocks. A block is a power of two."""

from typing import NoReturn

from bcached.errors import InvalidParameter
from bcached.keys import Key
from bcached.wire.messages import Allocate, Extent, Invalidate, Lookup


def refuse_unaligned(extent: Allocate | Extent | Lookup | Invalidate, block_mask: int) -> NoReturn:
    """Say which number of an extent is not one of whole blocks."""
    name = "offset" if extent.offset & block_mask else "sectors"
    value = getattr(extent, name)
    raise InvalidParameter(name, f"expected a multiple of {block_mask + 1}, found {value}")


def check_blocks(parameter: str, key: Key, block_mask: int) -> None:
    """Part of a reservation can be named, part of a block cannot."""
    bits = key.offset | key.sectors
    for pointer in key.pointers:
        bits |= pointer.sector
    if bits & block_mask:
        raise InvalidParameter(parameter, f"expected multiples of {block_mask + 1} sectors, found {key}")
