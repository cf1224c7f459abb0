# SPDX-License-Identifier: GPL-2.0-only
"""What status and top draw, from states made up here."""

from io import StringIO

import msgspec
import pytest
from rich.console import Console

from bcached.cli.locale import is_ascii_only
from bcached.cli.online.picture import BAR_WIDTH, VOLUMES_SHOWN, bar, counted, picture
from bcached.cli.online.top import rates
from bcached.index_state import IndexState, VolumeState
from bcached.set_state import BUCKET_STATES, RESERVES, MemberState, SetState


def member(**changes: object) -> MemberState:
    made = MemberState(
        device=0,
        path="/dev/some disk",
        uuid="u",
        bucket_count=2048,
        bucket_bytes=65536,
        buckets={**dict.fromkeys(BUCKET_STATES, 0), "clean": 2000, "held": 48},
        freelist=dict.fromkeys(RESERVES, 3),
        freelist_capacity=dict.fromkeys(RESERVES, 31),
        freelist_empty_s=dict.fromkeys(RESERVES, 1.25),
        free_inc=7,
        free_inc_capacity=15,
        unused=0,
        unused_capacity=15,
        allocations={**dict.fromkeys(RESERVES, 0), "none": 12},
        invalidations={"lru": 34, "fifo": 0, "random": 0},
        discards=0,
        prio_writes=5,
        gen_distance_index=2,
        gen_distance_disk=1,
        held_back_by_gen=0,
        journal_free_buckets=30,
        journal_bucket_count=32,
        invalidate_needs_gc=False,
        io_errors=0,
    )
    return msgspec.structs.replace(made, **changes)


def state(*members: MemberState, **changes: object) -> SetState:
    made = SetState(
        set_uuid="01234567-89ab-cdef-0123-456789abcdef",
        replacement="lru",
        discard=True,
        synchronous=True,
        failed=None,
        members=members or (member(),),
        waiters=dict.fromkeys(RESERVES, 0),
        oldest_wait_s=0.0,
        allocation_failures={"timeout": 0},
        allocated_sectors=2048,
        open_buckets=1,
        open_buckets_gone=0,
        open_buckets_idle=0,
        holders=2,
        quarantined_holders=0,
        reserved_sectors=16,
        gc_runs={"dry": 0, "asked": 3},
        gc_running=False,
        gc_found={"leaves": 3},
        dirty_sectors={"0": 8},
        sectors_to_gc=0,
        min_prio=32000,
        journal_seq=9,
        index=IndexState(2, 7, 60_000, 1 << 20, 512, 9, 3, 40, 16, 0, 0),
        lookups=0,
        lookup_hits=0,
        checksum_errors={},
    )
    return msgspec.structs.replace(made, **changes)


def drawn(shown: SetState, **rates: float) -> str:
    console = Console(file=StringIO(), width=120)
    console.print(picture(shown, rates))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_a_sound_set_shows_its_lists_states_and_policy() -> None:
    told = drawn(state())
    for words in ("working", "lru, discards on", "8k, 2 connected", "3/31", "7/15", "97.7 %", "3 (asked 3)"):
        assert words in told
    assert "2 levels, 7 leaves in memory (58.6k of 1M), 512 bytes of keys unwritten" in told
    assert "quarantine" not in told
    assert "FAILED" not in told
    assert "dirty" not in told, "states that no bucket is in are left out"


def test_what_is_wrong_stands_out() -> None:
    broken = state(
        member(io_errors=3, held_back_by_gen=11),
        failed="/dev/some disk: flush failed",
        waiters={**dict.fromkeys(RESERVES, 0), "none": 4},
        oldest_wait_s=2.5,
        quarantined_holders=1,
        synchronous=False,
    )
    told = drawn(broken)
    for words in ("FAILED: /dev/some disk: flush failed", "3 I/O errors", "11 buckets held back"):
        assert words in told
    for words in ("4, the oldest for 2.5 s", "1 in quarantine", "not synchronous"):
        assert words in told


def test_what_no_look_up_finds_is_shown_if_there_is_any() -> None:
    assert "not found" not in drawn(state())
    index = IndexState(2, 7, 0, 1 << 20, 0, 9, 3, 40, 16, 0, 0, stale_dirty_keys=1234, vanished_nodes=2)
    told = drawn(state(index=index))
    assert "1,234 stale dirty keys, 2 nodes of the index vanished: see bcachectl explain" in told
    assert "without a volume" not in told


def test_keys_that_wait_for_leaves_are_shown_if_there_are_any() -> None:
    assert "waiting for" not in drawn(state())
    told = drawn(state(index=IndexState(2, 7, 0, 1 << 20, 512, 9, 3, 40, 16, 0, 0, waiting_keys=1234)))
    assert "1,234 keys waiting for leaves" in told


def test_what_clients_count_is_shown_if_they_count() -> None:
    assert "client reads" not in drawn(state())
    told = drawn(state(client_hits=12_345, client_misses=6, client_hit_bytes=3 << 20))
    assert "client reads" in told
    assert "12,345 hits (3M), 6 misses" in told


def test_every_member_is_shown() -> None:
    told = drawn(state(member(), member(device=1, path="/dev/other")))
    assert "device 0" in told
    assert "device 1 /dev/other" in told


def test_words_that_look_like_markup_are_shown_as_they_are() -> None:
    assert "[bold]x[/bold]" in drawn(state(failed="[bold]x[/bold]"))


def test_a_bar_is_as_long_as_the_list_is_full_and_an_empty_list_has_one_too() -> None:
    def full(part: int, whole: int) -> int:
        return sum(span.end - span.start for span in bar(part, whole).spans if span.style == "green")

    assert [full(part, 10) for part in (0, 5, 10)] == [0, BAR_WIDTH // 2, BAR_WIDTH]
    assert len(bar(0, 0)) == len(bar(20, 10)) == BAR_WIDTH


def test_only_what_happened_is_counted_out() -> None:
    assert counted({"a": 0, "b": 1234, "c": 0}) == "b 1,234"
    assert counted({"a": 0}) == "none"


def test_top_tells_what_went_on_each_second_since_the_picture_before() -> None:
    later = state(member(prio_writes=9), allocated_sectors=4048)
    assert rates(None, later, 1.0) == {}
    told = rates((state(), 10.0), later, 12.0)
    assert (told["sectors allocated"], told["prio writes"], told["discarded"]) == (1000, 2, 0)
    assert "500k allocated, prio writes 2" in drawn(later, **told)
    assert "nothing" in drawn(later, **rates((later, 10.0), later, 12.0))


def test_counts_have_the_right_number_and_hits_are_in_per_cent() -> None:
    told = drawn(state(open_buckets=1, lookups=3, lookup_hits=2, lookup_sectors=40, lookup_hit_sectors=10))
    assert "1 bucket open" in told
    assert "3, 66.7 % hits, 25.0 % of the bytes" in told


def test_who_holds_buckets_and_what_wears_the_device_is_shown() -> None:
    told = drawn(
        state(
            member(written_bytes={"data": 2048, "journal": 1024}, live_sectors=4, dirty_sectors=1),
            held_buckets={"admin": 1, "allocator": 2, "gc": 0},
        )
    )
    assert "1 bucket by admin, 2 buckets by allocator" in told
    assert "3k, 1.50 times the data (data 2k, journal 1k)" in told
    assert "2k live, 512 bytes of it dirty" in told


def test_the_volumes_with_the_most_data_are_shown() -> None:
    made = {
        str(number): VolumeState(f"label {number}", False, 8 * number, number, 3, 10, 9, 80, 40)
        for number in range(VOLUMES_SHOWN + 1)
    }
    told = drawn(state(volumes=made))
    assert "label 8" in told
    assert "label 0" not in told
    assert "90.0 %" in told
    assert "50.0 %" in told
    assert "and 1 more volume" in told


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, True),
        ({"LANG": "C"}, True),
        ({"LANG": "C", "LC_CTYPE": "C.UTF-8"}, True),  # as Python sets it
        ({"LC_ALL": "POSIX", "LANG": "de_DE.UTF-8"}, True),
        ({"LANG": "de_DE.UTF-8"}, False),
        ({"LANG": "de_DE.UTF-8", "LC_CTYPE": "C.UTF-8"}, False),
        ({"LC_ALL": "C.UTF-8"}, False),
        ({"LANG": "de_DE.ISO-8859-1"}, True),
    ],
)
def test_the_c_locale_gets_ascii(
    environment: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_ascii_only() is expected
    assert drawn(state()).isascii() is expected
    assert bar(5, 10).plain == ("#####-----" if expected else "█████░░░░░")
