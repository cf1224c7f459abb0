# SPDX-License-Identifier: GPL-2.0-only
"""Complaints drawn from what a guest handed over."""

from .images import Entry, Pointer
from .judge import complaints_of
from .machine import Handover

LOG = """\
<12>[    1.9] bcached-kernel-test: begin
<6>[    2.0] bcache: bch_journal_replay() journal replay done, 0 keys in 1 entries, seq 7
"""


def handover(log: str = LOG, failures: str = "", trouble: str | None = None) -> Handover:
    return Handover({"dmesg": log.encode(), "failures": failures.encode()}, "", 1.0, trouble)


def entry(seq: int) -> Entry:
    return Entry(offset=0, seq=seq, uuid_table=Pointer(0, 0), root=Pointer(0, 0), prio_bucket=0)


def test_a_good_run_has_none() -> None:
    assert complaints_of(handover(), [entry(6), entry(7)], may_be_fresh=False) == []


def test_a_newest_entry_that_the_kernel_did_not_find_is_one() -> None:
    (complaint,) = complaints_of(handover(), [entry(7), entry(8)], may_be_fresh=False)
    assert "newest journal entry is 7, the image's 8" in complaint


def test_what_the_guest_failed_at_is_one() -> None:
    assert complaints_of(handover(failures="bcache0 is too small\n"), [], False) == ["bcache0 is too small"]


def test_a_guest_that_died_is_one() -> None:
    assert "it died" in complaints_of(handover(trouble="it died"), [], may_be_fresh=False)


def test_a_log_without_the_beginning_is_one() -> None:
    assert len(complaints_of(handover(log=""), [], may_be_fresh=False)) == 1
