# SPDX-License-Identifier: MIT
"""The mapped file of gens: a client checks with it whether a key is still valid without a request.

    byte 0     u64  magic
    byte 8     u64  version
    byte 16    u64  bucket_count
    byte 24    u64  life         id of the daemon's run, random, never 0; 0 once it stopped
    byte 32    u64  gc_epoch     incremented by each garbage collection
    byte 4096  u8   gen of bucket 0, of bucket 1, ... bucket_count of them

All little-endian. The daemon maps the file read-write, and its gen column *is* this memory; clients map
it read-only. Each header field is written by one aligned 8-byte store, each gen by a 1-byte store, so a
reader never sees a torn value.
"""

import sys

from bcached.errors import BadField
from bcached.wire.map_header import (
    COUNT_AT,
    HEADER_BYTES,
    LIFE_AT,
    MAGIC_AT,
    VERSION_AT,
    check_header,
    get_word,
    put_word,
)

MAGIC = 0x736E656764636362  # the bytes "bccdgens"
VERSION = 1

GC_EPOCH_AT = 32

LIFE_WORD, GC_EPOCH_WORD = LIFE_AT // 8, GC_EPOCH_AT // 8  # of `words`

STRUCTURE = "gen map"


def file_bytes(bucket_count: int) -> int:
    """Returns the length of the file of a member with so many buckets."""
    return HEADER_BYTES + bucket_count


def native(word: int) -> int:
    """Returns how this machine reads a little-endian word that is stored as this number, and back."""
    return word if sys.byteorder == "little" else int.from_bytes(word.to_bytes(8, "little"), "big")


class GenMap:
    """A view of one member's map: gens by bucket, and the header's fields.

    words is the header as this machine reads it (`native` translates): comparisons with it cost the least.
    """

    __slots__ = ("_memory", "bucket_count", "gens", "words")

    def __init__(self, memory: memoryview, bucket_count: int) -> None:
        assert memory.nbytes >= file_bytes(bucket_count)
        self._memory = memory[:]  # our own view, closed by release()
        self.bucket_count = bucket_count
        self.words = memory[:HEADER_BYTES].cast("Q")
        self.gens = memory[HEADER_BYTES : file_bytes(bucket_count)]

    @classmethod
    def lay_out(cls, memory: memoryview, bucket_count: int, life: int) -> "GenMap":
        """Write a new header (the gens stay as they are): the daemon's side, once at its start."""
        assert life > 0, "life 0, which means that no daemon maintains the map"
        gen_map = cls(memory, bucket_count)
        put_word(memory, MAGIC_AT, MAGIC)
        put_word(memory, VERSION_AT, VERSION)
        put_word(memory, COUNT_AT, bucket_count)
        put_word(memory, GC_EPOCH_AT, 0)
        put_word(memory, LIFE_AT, life)
        return gen_map

    @classmethod
    def parse(cls, memory: memoryview, where: str) -> "GenMap":
        """Returns the map in these bytes. Raises BadMagic or BadField. The client's side."""
        check_header(memory, STRUCTURE, where, magic=MAGIC, version=VERSION)
        bucket_count = get_word(memory, COUNT_AT)
        if memory.nbytes < file_bytes(bucket_count):
            raise BadField(
                STRUCTURE, f"{where} bucket_count", f"at most {memory.nbytes - HEADER_BYTES}", bucket_count
            )
        return cls(memory, bucket_count)

    @property
    def life(self) -> int:
        """Returns the id of the daemon's run; 0 once it has stopped cleanly."""
        return native(self.words[LIFE_WORD])

    @property
    def gc_epoch(self) -> int:
        """Returns the number of garbage collections of this run."""
        return native(self.words[GC_EPOCH_WORD])

    def bump_gc_epoch(self) -> None:
        """Note the end of a garbage collection: gens may wrap around from here on."""
        put_word(self._memory, GC_EPOCH_AT, self.gc_epoch + 1)

    def retire(self) -> None:
        """Mark the map as out of use: no reader trusts it from here on."""
        put_word(self._memory, LIFE_AT, 0)

    def release(self) -> None:
        """Release our views of the memory, so that its owner can unmap it."""
        self.gens.release()
        self.words.release()
        self._memory.release()
