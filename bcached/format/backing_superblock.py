# SPDX-License-Identifier: GPL-2.0-only
"""The superblock of a backing device: where a cache device's is, with other meanings for some fields.

104 flags: bits 0-3 the cache mode, bits 61-62 the state
184 the first sector of the data, unless the version is 1: then that is 16
"""

from dataclasses import dataclass
from uuid import UUID

from bcached.format.label import parse_label
from bcached.format.superblock_fields import (
    BACKING_CACHE_MODE,
    BACKING_CACHE_MODES,
    BACKING_STATE,
    BACKING_STATES,
    NAME,
    RawSuperblock,
    unpack,
)
from bcached.format.superblock_seal import resealed

VERSION_WITHOUT_OFFSET = 1  # BCACHE_SB_VERSION_BDEV
DATA_SECTOR_DEFAULT = 16  # BDEV_DATA_START_DEFAULT
SET_UUID_OFFSET, UUID_BYTES, FLAGS_OFFSET = 56, 16, 104


@dataclass(frozen=True, slots=True)
class BackingSuperblock:
    """The fields of a backing device. Names are bcache-super-show's; it has none for some cache modes."""

    uuid: UUID
    set_uuid: UUID
    version: int
    label: str
    seq: int
    block_sectors: int
    bucket_sectors: int
    data_sector: int
    cache_mode: int
    cache_mode_name: str | None
    state: int
    state_name: str

    @classmethod
    def of(cls, raw: RawSuperblock) -> "BackingSuperblock":
        """Returns the fields of a superblock with a good checksum."""
        state, mode = BACKING_STATE.get(raw.flags), BACKING_CACHE_MODE.get(raw.flags)
        return cls(
            uuid=UUID(bytes=raw.uuid),
            set_uuid=UUID(bytes=raw.set_uuid),
            version=raw.version,
            label=parse_label(raw.label),
            seq=raw.seq,
            block_sectors=raw.block_sectors,
            bucket_sectors=raw.bucket_size,
            data_sector=DATA_SECTOR_DEFAULT if raw.version == VERSION_WITHOUT_OFFSET else raw.bucket_count,
            cache_mode=mode,
            cache_mode_name=BACKING_CACHE_MODES[mode] if mode < len(BACKING_CACHE_MODES) else None,
            state=state,
            state_name=BACKING_STATES[state],
        )


def detached(raw: bytes) -> bytes:
    """Returns a backing device's superblock without a cache set (kernel: cached_dev_detach_finish)."""
    return _with_set(raw, UUID(int=0), "detached")


def attached(raw: bytes, set_uuid: UUID) -> bytes:
    """Returns the superblock of a device without dirty data in a set (kernel: bch_cached_dev_attach)."""
    return _with_set(raw, set_uuid, "clean")


def _with_set(raw: bytes, set_uuid: UUID, state: str) -> bytes:
    fields = unpack(raw, NAME)
    changed = bytearray(raw)
    changed[SET_UUID_OFFSET : SET_UUID_OFFSET + UUID_BYTES] = set_uuid.bytes
    flags = BACKING_STATE.put(fields.flags & ~BACKING_STATE.mask, BACKING_STATES.index(state))
    changed[FLAGS_OFFSET : FLAGS_OFFSET + 8] = flags.to_bytes(8, "little")
    return resealed(changed, NAME)
