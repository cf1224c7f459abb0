# SPDX-License-Identifier: GPL-2.0-only
"""Block alignment of requests: the socket counts in sectors, the set in blocks (a power of two)."""

from collections.abc import Sequence
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


def check_blocks(parameter: str, keys: Sequence[Key], block_mask: int) -> None:
    """Raises InvalidParameter for the first key that names part of a block: of a volume, or of a device."""
    bits = 0
    for key in keys:
        bits |= key.offset | key.sectors
        for pointer in key.pointers:
            bits |= pointer.sector
    if bits & block_mask:
        if len(keys) > 1:
            for key in keys:
                check_blocks(parameter, (key,), block_mask)
        raise InvalidParameter(parameter, f"expected multiples of {block_mask + 1} sectors, found {keys[0]}")
