# SPDX-License-Identifier: GPL-2.0-only
"""An exact LRU of so many bytes, for its hit ratio only."""

from collections import OrderedDict

from bench.trace_files import Request


class ExactLru:
    """Which objects it would have; each takes its length and nothing else."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity = capacity_bytes
        self._lengths: OrderedDict[str, int] = OrderedDict()
        self._used = 0

    def access(self, one: Request) -> bool:
        """Whether it was there; now it is, if it fits at all."""
        length = self._lengths.pop(one.name, None)
        self._used -= length or 0
        if one.length <= self._capacity:
            self._lengths[one.name] = one.length
            self._used += one.length
        while self._used > self._capacity:
            self._used -= self._lengths.popitem(last=False)[1]
        return length is not None
