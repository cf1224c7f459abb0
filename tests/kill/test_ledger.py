# SPDX-License-Identifier: GPL-2.0-only
"""The ledger and the grants find what they are there for."""

import pytest

from bcached.keys import Key, Pointer

from .grants import Grants
from .ledger import NOTHING, Ledger, LostError, Sighting, Volume, data_of, token_of

PLACE = (0, 8)


def changed(ledger: Ledger, token: int, *, durable: bool = True, dirty: bool = True, at: int = 0) -> None:
    since = ledger.now()
    change = ledger.begin(0, 8, 9, token, dirty and token != NOTHING)
    if durable:
        ledger.durable(since, at, change)
    else:
        ledger.accept(change)


def judge(ledger: Ledger, token: int | None, *, dirty: bool = True, at: int | None = None) -> None:
    ledger.judge({} if token is None else {PLACE: Sighting(token, dirty)}, [0], at)


def test_what_was_durable_is_to_be_found() -> None:
    ledger = Ledger()
    changed(ledger, 1)
    judge(ledger, 1)
    with pytest.raises(LostError, match="is lost"):
        judge(ledger, None)
    with pytest.raises(LostError, match="dirty=False"):
        judge(ledger, 1, dirty=False)


def test_what_was_overwritten_or_dropped_does_not_come_back() -> None:
    ledger = Ledger(keep_all=True)
    changed(ledger, 1)
    changed(ledger, 2)
    judge(ledger, 2)
    with pytest.raises(LostError, match="token=1"):
        judge(ledger, 1)
    changed(ledger, NOTHING)
    judge(ledger, None)
    with pytest.raises(LostError, match="token=2"):
        judge(ledger, 2)


def test_what_was_only_accepted_may_be_there_or_not() -> None:
    ledger = Ledger()
    changed(ledger, 1)
    changed(ledger, 2, durable=False)
    judge(ledger, 1)
    judge(ledger, 2)
    with pytest.raises(LostError, match="is lost"):
        judge(ledger, None)


def test_whoever_finds_a_change_finds_all_that_was_acknowledged_before_it() -> None:
    ledger = Ledger()
    changed(ledger, 1, durable=False)
    later = ledger.begin(0, 20, 21, 2, True)
    ledger.judge({}, [0])
    ledger.judge({PLACE: Sighting(1, True), (0, 20): Sighting(2, True)}, [0])
    with pytest.raises(LostError, match="is lost"):
        ledger.judge({(0, 20): Sighting(2, True)}, [0])
    assert later.acked is None


def test_a_change_is_whole_or_not_there() -> None:
    ledger = Ledger()
    ledger.begin(0, 8, 10, 1, True)
    ledger.judge({}, [0])
    with pytest.raises(LostError, match="is lost"):
        ledger.judge({PLACE: Sighting(1, True)}, [0])


def test_clean_data_may_vanish_and_come_back_but_not_older_data() -> None:
    ledger = Ledger()
    changed(ledger, 1)
    changed(ledger, 2, dirty=False)
    judge(ledger, None)
    ledger.settle({})
    judge(ledger, None)
    judge(ledger, 2, dirty=False)
    with pytest.raises(LostError):
        judge(ledger, 1)


def test_a_cut_is_judged_by_what_was_acknowledged_until_then() -> None:
    ledger = Ledger(keep_all=True)
    changed(ledger, 1, at=10)
    changed(ledger, 2, at=20)
    judge(ledger, 1, at=15)
    judge(ledger, 2, at=15)
    judge(ledger, None, at=5)
    with pytest.raises(LostError, match="token=1"):
        judge(ledger, 1, at=20)


def test_what_was_found_is_what_there_is_from_now_on() -> None:
    ledger = Ledger()
    changed(ledger, 1)
    changed(ledger, 2, durable=False)
    ledger.settle({PLACE: Sighting(1, True)})
    with pytest.raises(LostError):
        judge(ledger, 2)


def test_volumes_neither_get_lost_nor_come_back() -> None:
    ledger = Ledger()
    ledger.volumes["one"] = Volume("one", 0, created_at=0)
    ledger.judge_volumes({"one": 0})
    for listed in ({}, {"one": 1}, {"one": 0, "two": 1}):
        with pytest.raises(LostError):
            ledger.judge_volumes(listed)
    ledger.volumes["one"].deleting = True
    ledger.judge_volumes({})
    ledger.judge_volumes({"one": 0})
    ledger.volumes["one"].deleted_at = 0
    with pytest.raises(LostError, match="is back"):
        ledger.judge_volumes({"one": 0})


def test_sectors_say_where_they_belong() -> None:
    assert token_of(data_of(7, 1, 30, 31), 1, 30) == 7
    for data in (data_of(7, 1, 31, 32), bytes(512), data_of(7, 2, 30, 31)):
        with pytest.raises(LostError, match="foreign"):
            token_of(data, 1, 30)


def key(sector: int, gen: int, sectors: int = 4) -> Key:
    return Key(0, 0, sectors, True, (Pointer(0, sector, gen),))


def test_nothing_is_given_out_twice() -> None:
    grants = Grants(16)
    grants.give(key(16, 1))
    grants.give(key(20, 1))
    with pytest.raises(LostError, match="given out twice"):
        grants.give(key(22, 1))
    grants.give(key(22, 2))
    with pytest.raises(LostError, match="went back"):
        grants.give(key(30, 1, 1))
    with pytest.raises(LostError, match="beyond its bucket"):
        grants.give(key(46, 2))
    grants.take_back([key(22, 2)])
    grants.give(key(22, 2))


def test_what_the_index_holds_is_not_given_out_and_gens_on_disk_do_not_go_back() -> None:
    grants = Grants(16)
    grants.see_disk(0, bytes([0, 250]))
    grants.see_disk(0, bytes([0, 2]))
    grants.begin_life()
    grants.see(key(16, 2))
    with pytest.raises(LostError, match="given out twice"):
        grants.give(key(18, 2))
    with pytest.raises(LostError, match="went back"):
        grants.give(key(20, 1))
    with pytest.raises(LostError, match="went back on disk"):
        grants.see_disk(0, bytes([0, 1]))
