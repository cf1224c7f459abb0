# SPDX-License-Identifier: GPL-2.0-only
import math
from datetime import timedelta
from typing import Any

import pytest

from bcached.client.cache.values.expiry import expiry_us, now_us, unexpired
from bcached.client.cache.values.object_format import TIME_MAX_US, Seal, StoredObject


def test_what_has_no_expiry_never_expires() -> None:
    assert expiry_us(None) == 0
    kept = StoredObject(Seal(0, 0, 0, b"", 0), b"")
    assert unexpired(kept) is kept
    assert unexpired(None) is None


def test_it_expires_so_many_seconds_from_now() -> None:
    before = now_us()
    assert before + 2_500_000 <= expiry_us(2.5) <= now_us() + 2_500_000
    assert expiry_us(-5) < now_us()
    assert now_us() < expiry_us(math.inf) <= TIME_MAX_US


@pytest.mark.parametrize("expire", [math.nan, -math.inf, -1e10])
def test_no_number_of_seconds_is_refused(expire: float) -> None:
    with pytest.raises(ValueError, match="a number of seconds"):
        expiry_us(expire)


@pytest.mark.parametrize("expire", ["5", timedelta(seconds=5), b""])
def test_what_is_no_number_is_refused(expire: Any) -> None:
    with pytest.raises(TypeError, match="expire is a number of seconds, not "):
        expiry_us(expire)
