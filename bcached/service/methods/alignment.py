# SPDX-License-Identifier: GPL-2.0-only
"""Block alignment of requests: the socket counts in sectors, the set in blocks (a power of two)."""

from typing import NoReturn

from bcached.errors import InvalidParameter
from bcached.keys import Key
from bcached.wire.messages import Allocate, Extent, Invalidate, Lookup


def refuse_unaligned(extent: Allocate | Extent | Lookup | Invalidate, block_mask: int) -> NoReturn:
    """Raises InvalidParameter with the number of an extent that is not block-aligned."""
    name = "offset" if extent.offset & block_mask else "sectors"
    value = getattr(extent, name)
    raise InvalidParameter(
        name, f"expected a multiple of {block_mask + 1}, the sectors of a block, found {value}"
    )


def check_blocks(parameter: str, key: Key, block_mask: int) -> None:
    """Raises InvalidParameter if a key names part of a block. Part of a reservation may be named."""
    bits = key.offset | key.sectors
    for pointer in key.pointers:
        bits |= pointer.sector
    if bits & block_mask:
        raise InvalidParameter(parameter, f"expected multiples of {block_mask + 1} sectors, found {key}")
