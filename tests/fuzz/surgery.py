# SPDX-License-Identifier: GPL-2.0-only
"""Changes of an image that know what they change: fields, keys, checksums, whole sectors."""

import struct
from collections.abc import Callable, Sequence
from random import Random

from bcached.format.bkey import pointer_word
from bcached.format.checksum import crc64_seeded, crc64_we
from bcached.units import SECTOR_BYTES
from fuzz.bases import Base, Part
from instruments.devices.memory_device import MemoryDevice

WORD = (1 << 64) - 1
SUPERBLOCK_FIELDS = [
    *((offset, "Q") for offset in (8, 16, 104, 112, 120, 128, 136, 184)),
    *((offset, "H") for offset in (192, 194, 196, 198, 204, 206)),
    *((offset, "Q") for offset in (24, 40, 56, 72, 208, 216)),
    (200, "I"),
]
ENTRY_FIELDS = [
    *((offset, "Q") for offset in (8, 16, 32, 40, 48, 56, 104, 112, 120, 176, 184, 192)),
    *((offset, "I") for offset in (24, 28)),
    (168, "H"),
]
PRIO_FIELDS = [(8, "Q"), (16, "Q"), (24, "I"), (32, "Q")]
SLOT_FIELDS = [
    (0, "Q"),
    (8, "Q"),
    (16, "Q"),
    (48, "I"),
    (52, "I"),
    (56, "I"),
    (60, "I"),
    (64, "Q"),
    (72, "Q"),
    (120, "Q"),
]
BSET_FIELDS = [(8, "Q"), (16, "Q"), (24, "I"), (28, "I")]
KEYS_BEGIN = {"entry": 240, "bset": 32}
SLOT_BYTES = 128
DEVICES = (0, 1, 2, 7, 8, 9, 0xFFE, 0xFFF)
GENS = (1, 2, 48, 95, 96, 97, 98, 127, 128, 129, 160, 255)


class Surgeon:
    """Changes a base's devices; what it did is told in `done`."""

    def __init__(self, base: Base, devices: Sequence[MemoryDevice], random: Random) -> None:
        self.base = base
        self.devices = devices
        self.random = random
        self.done: list[str] = []

    def operate(self) -> None:
        """One change, or a few."""
        ways: list[Callable[[], None]] = [
            self.change_superblock,
            *[self.change_entry] * 3,
            self.change_prios,
            self.change_slot,
            *[self.change_bset_header] * 2,
            *[self.change_keys] * 8,
            *[self.change_blocks] * 3,
            self.put_back_older,
        ]
        for _ in range(self.random.choice((1, 1, 1, 2, 3))):
            self.random.choice(ways)()

    # One field

    def change_superblock(self) -> None:
        part = self._part("superblock")
        offset, layout = self.random.choice(SUPERBLOCK_FIELDS)
        raw = self._read(part)
        self._spoil(raw, offset, layout)
        self._seal(part, raw, 208 + 8 * min(int.from_bytes(raw[206:208], "little"), 256))
        self._write(part, raw, f"superblock field {offset}")
        if self.random.random() < 0.5:
            other = Part("superblock", part.member, 12288 - part.byte, part.length)
            self._write(other, raw, "and its copy")

    def change_entry(self) -> None:
        part = self._part("entry")
        raw = self._read(part)
        offset, layout = self.random.choice(ENTRY_FIELDS)
        if layout == "Q" and offset in (40, 48, 56, 104, 112, 120):
            begin = 40 if offset < 104 else 104
            self._spoil_key(raw, begin)
        else:
            self._spoil(raw, offset, layout)
        self._seal(part, raw, 240 + 8 * int.from_bytes(raw[28:32], "little"))
        self._write(part, raw, f"entry field {offset}")

    def change_prios(self) -> None:
        part = self._part("prio")
        raw = self._read(part)
        if self.random.random() < 0.4:
            offset, layout = self.random.choice(PRIO_FIELDS)
            self._spoil(raw, offset, layout)
        else:
            for _ in range(self.random.choice((1, 1, 4, 40))):
                at = 40 + 3 * self.random.randrange((len(raw) - 40) // 3)
                self._interesting_gen(raw, at + 2)
                raw[at] ^= self.random.choice((0, 0, 255))
        self._seal(part, raw, len(raw))
        self._write(part, raw, "prios")

    def change_slot(self) -> None:
        part = self._part("uuids")
        raw = self._read(part)
        slot = self.random.choice((0, 1, 2, 3, self.random.randrange(len(raw) // SLOT_BYTES)))
        if self.random.random() < 0.3:
            other = self.random.randrange(4)
            raw[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES] = raw[
                other * SLOT_BYTES : (other + 1) * SLOT_BYTES
            ]
        else:
            offset, layout = self.random.choice(SLOT_FIELDS)
            self._spoil(raw, slot * SLOT_BYTES + offset, layout)
        self._write(part, raw, f"slot {slot}")

    def change_bset_header(self) -> None:
        part = self._part("bset")
        raw = self._read(part)
        offset, layout = self.random.choice(BSET_FIELDS)
        self._spoil(raw, offset, layout)
        self._seal(part, raw, 32 + 8 * int.from_bytes(raw[28:32], "little"))
        self._write(part, raw, f"bset field {offset} of {part.node}")

    # Keys

    def change_keys(self) -> None:
        part = self._part("bset", "bset", "entry")
        raw = self._read(part)
        begin = KEYS_BEGIN[part.kind]
        words = int.from_bytes(raw[28:32], "little")
        keys = self._split(raw, begin, words)
        way = self.random.randrange(6)
        if keys and way <= 2:
            self._spoil_key(raw, begin + 8 * self.random.choice(keys))
        else:
            chosen = bytearray(struct.pack("<3Q", *self._some_key()))
            if self.random.random() < 0.5:
                self._spoil_key(chosen, 0)
            places = [*keys, words]
            at = begin + 8 * self.random.choice(places)
            end = begin + 8 * words
            tail = raw[at:end]
            if way == 3 and len(keys) > 1:
                self.random.shuffle(keys)  # swap two of the same length
                first, second = (begin + 8 * place for place in keys[:2])
                raw[first : first + 24], raw[second : second + 24] = (
                    raw[second : second + 24],
                    raw[first : first + 24],
                )
            elif way == 4 and keys:
                size = min(8 * (2 + (raw[at + 7] >> 4 & 7)), end - at) if at < end else 0
                raw[at:end] = raw[at + size : end] + bytes(size)
                struct.pack_into("<I", raw, 28, words - size // 8)
            elif end + 24 <= len(raw):
                raw[at : end + 24] = chosen + tail
                struct.pack_into("<I", raw, 28, words + 3)
        self._seal(part, raw, begin + 8 * int.from_bytes(raw[28:32], "little"))
        self._write(part, raw, f"keys of {part.kind} {part.node}")

    def _split(self, raw: bytearray, begin: int, words: int) -> list[int]:
        """The words at which keys begin."""
        places, place = [], 0
        while place < words and begin + 8 * place + 8 <= len(raw):
            places.append(place)
            place += 2 + (raw[begin + 8 * place + 7] >> 4 & 7)
        return places

    def _some_key(self) -> tuple[int, int, int]:
        """The words of a key: one of the index, or one that points anywhere."""
        random = self.random
        if self.base.data_keys and random.random() < 0.6:
            key = random.choice(self.base.data_keys)
            head = (
                1 << 63
                | (1 << 60 if key.pointers else 0)
                | int(key.dirty) << 36
                | key.sectors << 20
                | key.inode
            )
            return head, key.end, pointer_word(key.pointers[0]) if key.pointers else 0
        head = 1 << 63 | 1 << 60 | random.randrange(2) << 36 | 8 << 20 | random.randrange(3)
        return head, 8 * random.randrange(1, 2000), self._some_pointer(0)

    def _some_pointer(self, word: int) -> int:
        random, superblock = self.random, self.base.superblock
        assert superblock is not None
        device, sector, gen = word >> 51 & 0xFFF, word >> 8 & (1 << 43) - 1, word & 255
        size, count = superblock.bucket_sectors, superblock.bucket_count
        way = random.randrange(6)
        if way == 0:
            device = random.choice(DEVICES)
        elif way == 1:
            gen = gen + random.choice(GENS) & 255
        elif way == 2:
            part = random.choice(self.base.parts)
            sector = part.byte // SECTOR_BYTES // size * size
        elif way == 3:
            sector = random.choice(
                (0, size, (count - 1) * size, count * size, sector + 1, sector + size // 2, 1 << 42)
            )
        else:
            sector = random.randrange(count) * size
        return device << 51 | (sector & (1 << 43) - 1) << 8 | gen

    def _spoil_key(self, raw: bytearray, at: int) -> None:
        if at + 24 > len(raw):
            return
        head, end, pointer = struct.unpack_from("<3Q", raw, at)
        random = self.random
        way = random.randrange(9)
        if way <= 2 and head >> 60 & 7:
            pointer = self._some_pointer(pointer)
        elif way == 3:
            head = head & ~0xFFFFF | random.choice((0, 1, 2, 3, 100, 0xFFFFF))
        elif way == 4:
            head = head & ~(0xFFFF << 20) | random.choice((0, 1, 7, 9, 16, 0xFFFF)) << 20
        elif way == 5:
            head ^= 1 << 36
        elif way == 6:
            head ^= random.choice((1 << 60, 1 << 61, 1 << 62, 1 << 56, 1 << 63, 1 << 40))
        elif way == 7:
            end = (
                random.choice(
                    (0, 1, 8, end + 8, max(end - 8, 0), end ^ 1 << random.randrange(64), (1 << 63) - 1, WORD)
                )
                & WORD
            )
        else:
            head &= ~(7 << 60)  # a deletion, with a word too many
        struct.pack_into("<3Q", raw, at, head, end, pointer)

    # Blocks

    def change_blocks(self) -> None:
        part, other = self.random.choice(self.base.parts), self.random.choice(self.base.parts)
        superblock = self.base.superblock
        assert superblock is not None
        size = self.random.choice((SECTOR_BYTES, superblock.block_bytes))
        here, there = self._place(part, size), self._place(other, size)
        mine, theirs = self._bytes(part.member, here, size), self._bytes(other.member, there, size)
        way = self.random.randrange(6)
        if way == 0:
            self._put(part.member, here, bytes(size), f"zeros over {part.kind} at {here}")
        elif way == 1:
            self._put(part.member, here, theirs, f"{other.kind} at {there} over {part.kind} at {here}")
        elif way == 2:
            self._put(
                part.member, here, theirs, f"{other.kind} at {there} swapped with {part.kind} at {here}"
            )
            self._put(other.member, there, mine, "")
        elif way == 3 and self.base.of("entry"):
            one, two = (self.random.choice(self.base.of("entry")) for _ in range(2))
            first, second = self._bytes(one.member, one.byte, size), self._bytes(two.member, two.byte, size)
            self._put(one.member, one.byte, second, f"entries swapped at {one.byte} and {two.byte}")
            self._put(two.member, two.byte, first, "")
        else:
            flipped = bytearray(mine)
            flipped[self.random.randrange(min(size, 64 if way == 4 else size))] ^= 1 << self.random.randrange(
                8
            )
            self._put(part.member, here, bytes(flipped), f"a bit of {part.kind} at {here}")

    def put_back_older(self) -> None:
        if not self.base.history:
            return
        old = self.random.choice(self.base.history)
        part = self.random.choice(self.base.parts)
        size = self.random.choice((SECTOR_BYTES, part.length))
        at = self._place(part, size)
        self._put(part.member, at, old[part.member][at : at + size], f"an older {part.kind} at {at}")

    # Bytes

    def _part(self, *kinds: str) -> Part:
        newest = self.base.of("entry")[-3:] if "entry" in kinds and self.random.random() < 0.6 else []
        return self.random.choice(newest or self.base.of(self.random.choice(kinds)))

    def _place(self, part: Part, size: int) -> int:
        return part.byte + size * self.random.randrange(max(part.length // size, 1))

    def _read(self, part: Part) -> bytearray:
        return bytearray(self._bytes(part.member, part.byte, part.length))

    def _bytes(self, member: int, byte: int, length: int) -> bytes:
        return bytes(self.devices[member].disk.contents[byte : byte + length])

    def _write(self, part: Part, raw: bytearray, told: str) -> None:
        self._put(part.member, part.byte, bytes(raw), f"{told} at {part.byte} of d{part.member}")

    def _put(self, member: int, byte: int, raw: bytes, told: str) -> None:
        self.devices[member].disk.contents[byte : byte + len(raw)] = raw
        if told:
            self.done.append(told)

    def _spoil(self, raw: bytearray, offset: int, layout: str) -> None:
        (value,) = struct.unpack_from(f"<{layout}", raw, offset)
        bits = 8 * struct.calcsize(layout)
        most = (1 << bits) - 1
        random = self.random
        changed = random.choice(
            (
                0,
                1,
                2,
                value + 1,
                value - 1,
                value + 2,
                value ^ 1 << random.randrange(bits),
                value * 2,
                most,
                most >> 1,
            )
        )
        struct.pack_into(f"<{layout}", raw, offset, changed & most)

    def _interesting_gen(self, raw: bytearray, at: int) -> None:
        raw[at] = raw[at] + self.random.choice(GENS) & 255

    def _seal(self, part: Part, raw: bytearray, used: int) -> None:
        """Make the checksum good, nearly always."""
        if self.random.random() < 0.08 or used > len(raw):
            return
        body = bytes(raw[8:used])
        version = int.from_bytes(raw[24:28], "little")
        if part.node is not None and version:
            csum = crc64_seeded(body, pointer_word(part.node.pointers[0]))
        else:
            csum = crc64_we(body)
        struct.pack_into("<Q", raw, 0, csum)
