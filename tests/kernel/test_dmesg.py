# SPDX-License-Identifier: GPL-2.0-only
"""The verdict's reading of the log. The lines are what Debian's 6.1 prints."""

import pytest

from . import dmesg

SOUND_RUN = """\
<6>[    0.000000] Linux version 6.1.0
<3>[    0.500000] PCI: Fatal: No config space access function found
<12>[    1.900000] bcached-kernel-test: begin
<6>[    2.000000] bcache: bch_journal_replay() journal replay done, 3 keys in 2 entries, seq 17
<6>[    2.100000] bcache: register_cache() registered cache device vdb
<6>[    2.300000] bcache: bcache_device_free() bcache0 stopped
<6>[    2.400000] bcache: cache_set_free() Cache set 4cacd1ce-ca4d-46a6-9bb3-9fce10a2b261 unregistered
"""
FRESH = dmesg.Line(5, "bcache: run_cache_set() invalidating existing data")


def judged(text: str, level: int = 6) -> list[str]:
    return dmesg.complaints([dmesg.Line(level, text)], may_be_fresh=False)


def test_a_sound_run_has_no_complaints() -> None:
    lines = dmesg.since_begin(dmesg.parse(SOUND_RUN))
    assert lines is not None
    assert len(lines) == 4
    assert dmesg.complaints(lines, may_be_fresh=False) == []


def test_what_came_before_the_scenario_is_not_the_images_fault() -> None:
    assert dmesg.complaints(dmesg.parse(SOUND_RUN), may_be_fresh=False) != []


def test_a_log_without_a_beginning_is_told_apart_from_an_empty_one() -> None:
    assert dmesg.since_begin(dmesg.parse("<6>[    1.000000] something else\n")) is None
    assert dmesg.since_begin([dmesg.Line(6, dmesg.BEGIN)]) == []


def test_the_level_is_freed_of_the_facility() -> None:
    assert dmesg.parse("<12>[    1.900000] text\n") == [dmesg.Line(4, "text")]


def test_a_caller_behind_the_time_is_no_part_of_the_text() -> None:
    assert dmesg.parse("<6>[    1.9][    T1] text\n") == [dmesg.Line(6, "text")]


def test_older_kernels_name_no_function() -> None:
    assert judged("bcache: registered cache device vdb") == []


@pytest.mark.parametrize(
    "text",
    [
        "bcache: journal_read_bucket() 1: bad csum, 240 bytes, offset 0",
        "bcache: bch_journal_replay() journal entries 4-5 missing! (replaying 3-9)",
        "bcache: prio_read() bad csum reading priorities",
        "bcache: btree_ptr_bad() stale dirty pointer",
        "bcache: a sentence that no kernel has said so far",
        "bcache: register_cache() registered cache device vdb, but",
    ],
)
def test_a_line_of_bcache_not_known_to_be_sound_is_a_complaint_at_any_level(text: str) -> None:
    assert judged(text) == [text]


@pytest.mark.parametrize(
    "text", ["INFO: task bcache_gc:99 blocked for more than 20 seconds.", "Call Trace:", "Oops: 0000 [#1]"]
)
def test_a_kernel_in_trouble_is_a_complaint_at_any_level(text: str) -> None:
    assert judged(text) == [text]


@pytest.mark.parametrize(("level", "count"), [(3, 1), (4, 1), (5, 0), (6, 0)])
def test_anybodys_warning_is_a_complaint(level: int, count: int) -> None:
    assert len(judged("virtio_blk: something", level)) == count


def test_starting_afresh_is_forgiven_to_a_fresh_image_only() -> None:
    assert dmesg.complaints([FRESH], may_be_fresh=True) == []
    assert dmesg.complaints([FRESH], may_be_fresh=False) == [FRESH.text]


def test_the_replay_is_told_in_numbers() -> None:
    assert dmesg.replayed(dmesg.parse(SOUND_RUN)) == {"keys": 3, "entries": 2, "seq": 17}
    assert dmesg.replayed([FRESH]) is None
