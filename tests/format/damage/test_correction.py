# SPDX-License-Identifier: GPL-2.0-only
"""One wrong bit anywhere is found by the checksum; more than one is not mistaken for another."""

from collections.abc import Callable
from random import Random

import numpy as np
import pytest

from bcached.format.bset import Bset, pack_bset
from bcached.format.damage.correction import (
    corrected_bset,
    corrected_entry,
    corrected_prio_set,
    corrected_superblock,
)
from bcached.format.prio_set import PrioSet
from bcached.keys import Key, Pointer
from instruments.samples.format_samples import ENTRY, SUPERBLOCK

MAGIC = 0x1234
NODE = Key(0, 0, 64, False, (Pointer(1, 4096, 7),))
EXTENTS = tuple(Key(0, 64 * n, 8, True, (Pointer(0, 8192 + 64 * n, 3),)) for n in range(9))
BSET = pack_bset(Bset(77, EXTENTS), NODE, MAGIC, 512)
PRIOS = PrioSet(7, 3, np.full(300, 32768, np.uint16), np.arange(300).astype(np.uint8)).pack(MAGIC, 4096)

Correct = Callable[[bytes], bytes | None]
SAMPLES: dict[str, tuple[bytes, int, Correct]] = {
    "entry": (bytes(ENTRY.pack(MAGIC, 512)), len(ENTRY.pack(MAGIC)), lambda raw: corrected_entry(raw, MAGIC)),
    "superblock": (SUPERBLOCK.pack(), 208, corrected_superblock),
    "prio set": (bytes(PRIOS), 4096, lambda raw: corrected_prio_set(raw, MAGIC)),
    "bset": (BSET, 32 + 24 * 9, lambda raw: corrected_bset(raw, NODE, MAGIC, 77)),
}
every_structure = pytest.mark.parametrize("kind", SAMPLES)


def flipped(raw: bytes, *bits: int) -> bytes:
    changed = bytearray(raw)
    for bit in bits:
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.no_cover
@every_structure
def test_one_wrong_bit_is_put_right(kind: str) -> None:
    raw, used_bytes, correct = SAMPLES[kind]
    assert correct(raw) == raw[:used_bytes]
    step = 1 if used_bytes < 1000 else 61
    for bit in range(0, 8 * used_bytes, step):
        assert correct(flipped(raw, bit)) == raw[:used_bytes], f"bit {bit}"


@every_structure
def test_two_wrong_bits_are_left_as_they_are(kind: str) -> None:
    raw, used_bytes, correct = SAMPLES[kind]
    random = Random(kind)
    for _ in range(50):
        bits = random.sample(range(8 * 40, 8 * used_bytes), 2)  # not in the magic, which is known
        assert correct(flipped(raw, *bits)) is None


def test_a_bset_of_another_node_is_not_made_one_of_this() -> None:
    other = Key(0, 0, 64, False, (Pointer(1, 8192, 9),))
    assert corrected_bset(BSET, other, MAGIC, 0) is None
