# SPDX-License-Identifier: GPL-2.0-only
"""Windows over scattered areas: few transfers, and what is between them is neither changed nor needed."""

from dataclasses import replace
from random import Random

from bcached.errors import DeviceError
from bcached.store.check.checker import check_set
from bcached.store.clone.clone import Clone
from bcached.store.clone.live_areas import live_areas
from bcached.store.clone.windows import READ_GAP_BYTES, WINDOW_BYTES, PieceWindow, windows, writes
from instruments.devices.memory_device import MemoryDevice
from instruments.devices.passing_device import PassingDevice
from instruments.samples.image_builder import ImageBuilder

K = 1 << 10
EXTENTS = 60


def test_near_pieces_share_a_window_and_distant_ones_do_not() -> None:
    pieces = [(0, 4 * K), (8 * K, 4 * K), (12 * K + READ_GAP_BYTES, K), (14 * K + 2 * READ_GAP_BYTES, K)]
    assert [list(window.pieces) for window in windows(pieces)] == [pieces[:3], pieces[3:]]


def test_no_window_is_too_long() -> None:
    rng, byte, pieces = Random(1), 0, []
    for _ in range(500):
        length = rng.choice((K, 64 * K, WINDOW_BYTES))
        pieces.append((byte, length))
        byte += length + rng.randrange(0, 3 * READ_GAP_BYTES, K)
    found = list(windows(pieces))
    assert [piece for window in found for piece in window.pieces] == pieces
    assert all(window.length <= WINDOW_BYTES for window in found)


def test_writes_change_the_pieces_that_differ_and_nothing_between_them() -> None:
    for seed in range(200):
        rng = Random(seed)
        gap_bytes = rng.choice((0, 3, 100))
        data, there = (bytearray(rng.choices(range(2), k=100)) for _ in range(2))
        pieces = [(at, rng.randint(1, 5)) for at in range(1000, 1095, 7)]
        window = PieceWindow(pieces)
        cut_data, cut_there = bytes(data[: window.length]), bytes(there[: window.length])
        result = bytearray(cut_there)
        different = window.differing(cut_data, cut_there)
        found = list(writes(window, different, cut_data, cut_there, gap_bytes))
        assert len(found) == len(list(windows(different, gap_bytes)))
        for byte, wanted in found:
            result[byte - 1000 : byte - 1000 + len(wanted)] = wanted
        for at in range(window.length):
            live = any(byte <= 1000 + at < byte + length for byte, length in pieces)
            assert result[at] == (cut_data if live else cut_there)[at]


def scattered() -> MemoryDevice:
    """A set with dirty extents in every other bucket of a row."""
    builder = ImageBuilder(bucket_sectors=16, block_sectors=8)
    builder.volumes[1] = None
    keys = []
    for number in range(EXTENTS):
        keys.append(builder.extent(0, 32 * number, 8, dirty=True))
        builder.extent(0, 32 * number, 8)  # of no key
    (device,) = builder.finish(builder.node(keys), 0).devices()
    return device


class Counting(PassingDevice):
    """Counts transfers; what is in `bad` cannot be read."""

    def __init__(self, inner: MemoryDevice, bad: frozenset[int] = frozenset()) -> None:
        super().__init__(inner)
        self.reads, self.bad = 0, bad

    async def read(self, offset: int, length: int) -> bytes:
        self.reads += 1
        if any(offset <= byte < offset + length for byte in self.bad):
            raise DeviceError(self.path, "bad sector")
        return await super().read(offset, length)


async def test_scattered_extents_need_few_transfers_and_not_what_is_between_them() -> None:
    device = scattered()
    source = (await check_set([device])).members[0]
    areas = live_areas(await check_set([device]), 0)
    pieces = list(areas.pieces())
    assert len(pieces) > EXTENTS // 2
    gaps = frozenset(sum(piece) for piece in pieces)
    writes_of = {}
    for bad, reads_max, gap_bytes in (
        (frozenset[int](), len(pieces) // 4, 0),
        (frozenset[int](), len(pieces) // 4, READ_GAP_BYTES),
        (gaps, 4 * len(pieces), READ_GAP_BYTES),
    ):
        target = MemoryDevice(device.size_bytes)
        target.disk.contents[:] = before = Random(2).randbytes(target.size_bytes)
        counting = Counting(device, bad)
        run = Clone(replace(source, block_device=counting), areas, target, write_gap_bytes=gap_bytes)
        done = await run.run(verify=True)
        writes_of[bool(bad), gap_bytes] = target.writes
        assert counting.reads <= 2 * reads_max
        assert done.copied_sectors == done.verified_sectors == areas.sectors
        image, original = target.image(), device.image()
        assert all(image[at : at + size] == original[at : at + size] for at, size in pieces)
        assert all(image[at] == before[at] for at in gaps)
    assert writes_of[False, READ_GAP_BYTES] < writes_of[False, 0] // 2
