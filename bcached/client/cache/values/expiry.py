# SPDX-License-Identifier: MIT
"""When objects expire, in microseconds since 1970."""

import time

from bcached.client.arguments import shown
from bcached.client.cache.values.object_format import TIME_MAX_US, StoredObject


def now_us() -> int:
    """Returns the present time."""
    return time.time_ns() // 1000


def expiry_us(expire: float | None, what: str = "expire") -> int:
    """Returns when what is stored now expires, after so many seconds; 0 for never.

    Raises TypeError for what is no number, ValueError for one that is too small, or NaN.
    """
    if expire is None:
        return 0
    if not isinstance(expire, int | float) or isinstance(expire, bool):
        raise TypeError(f"{what} is a number of seconds, not {shown(expire)}")
    if not expire > -1e9:  # also a NaN
        raise ValueError(f"{what} is a number of seconds, not {shown(expire)}")
    return max(1, min(now_us() + int(min(expire, 1e12) * 1e6), TIME_MAX_US))


def seconds_left(expires_at_us: int) -> float | None:
    """Returns the seconds until then; None for never."""
    return (expires_at_us - now_us()) / 1e6 if expires_at_us else None


def unexpired(found: StoredObject | None) -> StoredObject | None:
    """Returns the object, or None if it has expired or there is none."""
    if found is None or not (expires_at_us := found.seal.expires_at_us) or expires_at_us > now_us():
        return found
    return None
