# SPDX-License-Identifier: GPL-2.0-only
"""Publishes where clients find what others have stored, as far as it takes no search."""

from collections import Counter
from collections.abc import Sequence

from bcached.keys import Key
from bcached.state.index.keys.key_ranges import Span
from bcached.wire.change_map import ChangeMap


class PublishedPlaces:
    """The places in the file of change counters. No await is between a change, its count and this."""

    def __init__(self, change_map: ChangeMap) -> None:
        self.region_sectors = 1 << change_map.shift
        self._put = change_map.put_places

    def committed(self, keys: Sequence[Key], replaced: Sequence[Span]) -> None:
        """Publish those of committed keys that are alone in a replaced region, at its beginning."""
        region_sectors = self.region_sectors
        regions = {
            (inode, start)
            for inode, start, end in replaced
            if end - start == region_sectors and not start % region_sectors
        }
        if not regions:
            return
        first = {(key.inode, key.offset) for key in keys}
        if first != regions or len(first) != len(keys):  # some objects have several keys
            counts = Counter([(key.inode, key.offset - key.offset % region_sectors) for key in keys])
            keys = [key for key in keys if counts[one := (key.inode, key.offset)] == 1 and one in regions]
        self._put([key for key in keys if len(key.pointers) == 1])

    def found(self, offset: int, key: Key) -> None:
        """Publish a key that is all that was found in a region, which begins there."""
        if key.offset == offset and not offset % self.region_sectors and len(key.pointers) == 1:
            self._put((key,))
