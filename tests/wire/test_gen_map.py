# SPDX-License-Identifier: GPL-2.0-only
import pytest

from bcached.errors import BadField, BadMagic
from bcached.wire.gen_map import GenMap, file_bytes
from bcached.wire.map_header import HEADER_BYTES

BUCKETS = 1000


def fresh(life: int = 7) -> bytearray:
    memory = bytearray(file_bytes(BUCKETS))
    GenMap.lay_out(memoryview(memory), BUCKETS, life).release()
    return memory


def test_the_header_is_five_little_endian_words_and_the_gens_follow_the_page() -> None:
    memory = fresh(life=0x0102030405060708)
    assert memory[:8] == b"bccdgens"
    assert [int.from_bytes(memory[at : at + 8], "little") for at in (8, 16, 24, 32)] == [
        1,
        BUCKETS,
        0x0102030405060708,
        0,
    ]
    assert len(memory) == HEADER_BYTES + BUCKETS


def test_what_the_daemon_writes_the_reader_sees() -> None:
    memory = fresh()
    ours = GenMap(memoryview(memory), BUCKETS)
    theirs = GenMap.parse(memoryview(memory).toreadonly(), "map")
    ours.gens[999] = 200
    ours.bump_gc_epoch()
    assert (theirs.gens[999], theirs.gc_epoch, theirs.life, theirs.bucket_count) == (200, 1, 7, BUCKETS)
    ours.retire()
    assert theirs.life == 0


def test_laying_out_a_header_leaves_the_gens_alone() -> None:
    memory = fresh()
    memory[HEADER_BYTES + 5] = 42
    assert GenMap.lay_out(memoryview(memory), BUCKETS, 8).gens[5] == 42


def test_a_reader_cannot_write() -> None:
    theirs = GenMap.parse(memoryview(fresh()).toreadonly(), "map")
    with pytest.raises(TypeError):
        theirs.gens[0] = 1
    with pytest.raises(TypeError):
        theirs.bump_gc_epoch()


@pytest.mark.parametrize(
    ("at", "error", "words"),
    [(0, BadMagic, "gen map at x"), (8, BadField, "version"), (16 + 7, BadField, "bucket_count")],
)
def test_a_header_with_one_field_wrong_is_refused(at: int, error: type, words: str) -> None:
    memory = fresh()
    memory[at] ^= 0x40
    with pytest.raises(error, match=words):
        GenMap.parse(memoryview(memory), "x")


def test_a_map_shorter_than_it_says_is_refused() -> None:
    memory = fresh()
    with pytest.raises(BadField, match="bucket_count"):
        GenMap.parse(memoryview(memory)[:-1], "x")
    with pytest.raises(BadField, match="length"):
        GenMap.parse(memoryview(memory)[: HEADER_BYTES - 1], "x")


def test_a_released_map_lets_its_memory_go() -> None:
    memory = fresh()
    gen_map = GenMap.parse(memoryview(memory), "x")
    gen_map.release()
    memory.extend(b"x")  # BufferError while a view stands
