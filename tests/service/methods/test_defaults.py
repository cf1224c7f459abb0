# SPDX-License-Identifier: GPL-2.0-only
import pytest

from bcached.errors import InvalidParameter, PermissionDenied
from bcached.runtime.index.lookups import LookupRequest
from bcached.service.methods.defaults import extent_request, lookup_request, timeout_s, wait_s
from bcached.service.requests.method import Session
from bcached.service.users.access import Role
from bcached.service.users.peer import Peer
from bcached.state.sectors.reservations import ExtentRequest, Holder
from bcached.wire.messages import FOUND_MAX, TIMEOUT_MS, Allocate, Commit, Lookup
from instruments.samples.small_member import GEOMETRY

BLOCK_MASK = 7
PID = 77
HOLDER = Holder("client", 10, GEOMETRY)


def session(role: Role = Role.ALLOCATOR) -> Session:
    return Session(Peer(PID, 0, frozenset()), role, HOLDER)


def test_a_look_up_that_leaves_all_out_pins_nothing_and_renews_prios() -> None:
    parsed = lookup_request(Lookup(1, 8, 16), HOLDER, BLOCK_MASK)
    assert parsed == LookupRequest(1, 8, 16, FOUND_MAX, None, True)


def test_a_look_up_keeps_what_it_says() -> None:
    parsed = lookup_request(Lookup(1, 8, 16, limit=3, pin=True, touch=False), HOLDER, BLOCK_MASK)
    assert (parsed.limit, parsed.pin, parsed.touch) == (3, HOLDER, False)


@pytest.mark.parametrize(("own", "shared", "limit"), [(None, 5, 5), (9, 5, 5), (3, 5, 3), (None, 0, 0)])
def test_the_smaller_limit_holds(own: int | None, shared: int, limit: int) -> None:
    assert lookup_request(Lookup(1, 8, 16, limit=own), HOLDER, BLOCK_MASK, shared).limit == limit


@pytest.mark.parametrize(("offset", "sectors", "name"), [(4, 8, "offset"), (8, 4, "sectors")])
def test_a_look_up_of_part_of_a_block_is_refused(offset: int, sectors: int, name: str) -> None:
    with pytest.raises(
        InvalidParameter, match=f"{name}: expected a multiple of 8, the sectors of a block, found 4"
    ):
        lookup_request(Lookup(1, offset, sectors), HOLDER, BLOCK_MASK)


def test_an_extent_goes_to_the_write_point_of_its_process() -> None:
    assert extent_request(Allocate(1, 8, 16), session()) == ExtentRequest(1, 8, 16, PID, 1, False, False)


def test_an_extent_keeps_what_it_says() -> None:
    request = Allocate(1, 8, 16, write_point=5, replicas=2, whole=True)
    assert extent_request(request, session()) == ExtentRequest(1, 8, 16, 5, 2, False, True)


def test_only_an_admin_may_use_the_reserve_of_the_moving_collector() -> None:
    request = Allocate(1, 8, 16, write_prio=True)
    with pytest.raises(PermissionDenied, match="needs role admin"):
        extent_request(request, session())
    assert extent_request(request, session(Role.ADMIN)).moving


def test_a_timeout_is_in_seconds() -> None:
    assert timeout_s(Commit(())) == TIMEOUT_MS / 1000
    assert timeout_s(Commit((), timeout_ms=0)) == 0
    assert timeout_s(Commit((), timeout_ms=1500)) == 1.5


def test_an_allocation_that_is_not_to_wait_has_no_timeout() -> None:
    assert wait_s(Allocate(1, 8, 16, wait=False, timeout_ms=1500)) == 0
    assert wait_s(Allocate(1, 8, 16, wait=True, timeout_ms=1500)) == 1.5
    assert wait_s(Allocate(1, 8, 16)) == TIMEOUT_MS / 1000
