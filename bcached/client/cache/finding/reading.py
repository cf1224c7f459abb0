# SPDX-License-Identifier: MIT
"""Reads an object from its keys, which moving and eviction may have divided, or left with gaps."""

from collections.abc import Sequence

import msgspec
from fastcrc import crc64

from bcached.client.attachment import Attachment
from bcached.client.cache.values.names import RECORD_AT
from bcached.client.cache.values.object_format import (
    CHECKED_AT,
    HEADER_BYTES,
    ON_A_PAGE_BYTES,
    RECORD,
    StoredObject,
    bytes_needed,
    decoded,
    decoded_long,
    record_value,
    value_at,
)
from bcached.client.data.data_paths import DataPaths
from bcached.client.data.scattered_reads import LONG_BYTES, ScatteredRead
from bcached.client.gens import Gens, Instant
from bcached.client.protocol.plans import valid_pointers
from bcached.keys import Key, Pointer
from bcached.units import SECTOR_BYTES


class StaleRead(Exception):
    """A bucket was reused between look-up and read."""


class Reader:
    """Reads what was looked up, through the page cache."""

    def __init__(self, at: Attachment, gens: Gens) -> None:
        self._at = at
        self._gens = gens
        self.pages_reread = 0  # objects that only a direct read showed

    def read(self, name: bytes, offset: int, keys: Sequence[Key], since: Instant) -> StoredObject | None:
        """Returns the object of this name; None without a whole one. Raises StaleRead.

        offset is the slot's, keys are what was found in the slot after `since`, in order.
        """
        if not keys or keys[0].offset != offset:
            return None
        read = object()
        try:
            self._at.begin_read(read)
            found = self._object(name, offset, keys, since)
            record = keys[-1] if keys[-1].offset == offset + RECORD_AT else None
            return found if found is None or record is None else self._renewed(found, name, record, since)
        finally:
            self._at.end_read(read)

    def _object(self, name: bytes, offset: int, keys: Sequence[Key], since: Instant) -> StoredObject | None:
        whole = _whole(keys, offset)
        total = sum(key.sectors for key in whole) * SECTOR_BYTES
        if total > LONG_BYTES:
            start, found = self._long(name, whole, total, since)
            if found is None and bytes_needed(start) > total:
                return None  # evicted in part
            if found is not None or bytes_needed(start) > LONG_BYTES:
                return found or self._reread(name, offset, keys, since)
        first = self._piece(keys[0], keys[0].sectors * SECTOR_BYTES, since)
        found = decoded(first, name)
        if found is None and bytes_needed(first) > len(first):
            pieces = _pieces(keys, offset, bytes_needed(first))
            if not pieces:
                return None  # evicted in part
            found = self._assembled(name, first, pieces, since)
        return found or self._reread(name, offset, keys, since)

    def _long(
        self, name: bytes, keys: Sequence[Key], total: int, since: Instant
    ) -> tuple[bytes, StoredObject | None]:
        """Returns the first bytes of all that is in these keys, and the long object that they are."""
        begins = value_at(len(name), ON_A_PAGE_BYTES)
        read = ScatteredRead(begins, total - begins, crc64.xz, checked_at=CHECKED_AT)
        extents = [(self._pointer(key, since), key.sectors * SECTOR_BYTES) for key in keys]
        self._at.data.fill(read, extents)
        if not all(valid_pointers(self._at, self._gens, key, since) for key in keys):
            raise StaleRead
        start = bytes(read.head)
        length = bytes_needed(start) - begins
        if not ON_A_PAGE_BYTES <= length <= total - begins:
            return start, None
        checksum = read.checksum(length)
        return start, decoded_long(start, read.value(length), checksum, name)

    def _assembled(
        self, name: bytes, first: bytes, pieces: Sequence[tuple[Key, int]], since: Instant
    ) -> StoredObject | None:
        rest = [self._piece(key, length, since) for key, length in pieces[1:]]
        return decoded(b"".join((first, *rest)), name)

    def _piece(self, key: Key, length: int, since: Instant) -> bytes:
        """Returns the first bytes of an extent. Raises StaleRead if they are not its own."""
        data = self._at.data.read_bytes(self._pointer(key, since), length)
        if not valid_pointers(self._at, self._gens, key, since):
            raise StaleRead
        return data

    def _pointer(self, key: Key, since: Instant) -> Pointer:
        """Returns a pointer that is valid now, if there is a choice."""
        if len(key.pointers) == 1:
            return key.pointers[0]
        good = valid_pointers(self._at, self._gens, key, since)
        return good[0] if good else key.pointers[0]

    def _renewed(self, found: StoredObject, name: bytes, key: Key, since: Instant) -> StoredObject:
        """Returns the object with the expiry of the record behind it, if that is about this very object."""
        record = decoded(self._piece(key, key.sectors * SECTOR_BYTES, since), name)
        if record is None or record.seal.codec != RECORD or record.value != record_value(found.seal.crc):
            return found
        seal = msgspec.structs.replace(found.seal, expires_at_us=record.seal.expires_at_us)
        return StoredObject(seal, found.value)

    def _reread(self, name: bytes, offset: int, keys: Sequence[Key], since: Instant) -> StoredObject | None:
        """Read past the page cache, in which a direct write that races with a read may leave an old page."""
        paths = DataPaths(self._at.description.devices, direct=True, whole_buckets=True)
        try:
            first = paths.read(keys[0].pointers[0], keys[0].sectors)
            needed = bytes_needed(first)
            pieces = _pieces(keys, offset, needed) if needed else ()
            whole = b"".join([paths.read(key.pointers[0], key.sectors) for key, _ in pieces])
        finally:
            paths.close()
        if not all(valid_pointers(self._at, self._gens, key, since) for key in keys):
            raise StaleRead
        found = decoded(whole, name) if len(whole) >= HEADER_BYTES else None
        self.pages_reread += found is not None
        return found


def _whole(keys: Sequence[Key], offset: int) -> Sequence[Key]:
    """Returns the keys from this offset on, up to the first gap."""
    whole = []
    for key in keys:
        if key.offset != offset:
            break
        whole.append(key)
        offset = key.end
    return whole


def _pieces(keys: Sequence[Key], offset: int, needed: int) -> Sequence[tuple[Key, int]]:
    """Returns the keys that cover so many bytes, with how many of each; nothing if there is a gap."""
    pieces = []
    for key in keys:
        if key.offset != offset:
            return ()
        length = min(needed, key.sectors * SECTOR_BYTES)
        pieces.append((key, length))
        offset, needed = key.end, needed - length
        if not needed:
            return pieces
    return ()
