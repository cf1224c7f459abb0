# SPDX-License-Identifier: GPL-2.0-only
import pytest

from bcached.errors import DeviceFailed, RequestError, ShuttingDown
from bcached.runtime.coordination.conditions import Conditions
from bcached.runtime.coordination.stop import Stop
from instruments.time.virtual_time import in_virtual_time


@in_virtual_time
async def test_the_first_reason_is_kept_and_every_callback_hears_it_once() -> None:
    stop, heard = Stop(Conditions()), list[RequestError]()
    stop.on_refusal.append(heard.append)
    stop.check_changeable()
    first = DeviceFailed("gone")
    stop.refuse(first)
    stop.refuse(ShuttingDown())
    assert heard == [first]
    with pytest.raises(DeviceFailed):
        stop.check_changeable()


@in_virtual_time
async def test_a_refusal_does_not_end_the_tasks_and_a_request_does() -> None:
    stop = Stop(Conditions())
    stop.refuse(ShuttingDown())
    before = stop.is_requested
    stop.request()
    assert (before, stop.is_requested) == (False, True)


@in_virtual_time
async def test_the_first_error_of_a_guarded_callback_is_kept() -> None:
    stop = Stop(Conditions())

    def fail(number: int) -> None:
        raise ValueError(number)

    guarded = stop.guarded(fail)
    guarded(1)
    guarded(2)
    assert str(stop.broken.exception()) == "1"
