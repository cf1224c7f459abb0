# SPDX-License-Identifier: GPL-2.0-only
"""What a cache can do for a peer that may only read."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcached.client import Cache
from bcached.errors import BcachedError, DeviceError, PermissionDenied
from bcached.service.users.access import Access, Role
from bcached.service.users.peer import Peer
from instruments.clients.served_set import served


class RoleForNext(Access):
    """Gives each peer the role that is set when it connects."""

    def __init__(self) -> None:
        super().__init__([], [], [])
        self.role = Role.ALLOCATOR

    def role_of(self, peer: Peer) -> Role:
        return self.role


WRITES: list[Callable[[Cache], Any]] = [
    lambda cache: cache.set("b", 1),
    lambda cache: cache.add("b", 1),
    lambda cache: cache.incr("a"),
    lambda cache: cache.touch("a", 5),
    lambda cache: cache.delete("a"),
    lambda cache: cache.clear(),
]


def use_as_reader(reader: Cache, other: Cache) -> None:
    """All that a reader may do, and all that it may not."""
    assert reader["a"] == reader["a"] == 1
    assert reader.get_many(["a", "b"]) == {"a": 1}
    assert reader.get("b") is None
    for write in WRITES:
        with pytest.raises(PermissionDenied, match="allocator"):
            write(reader)
    assert reader["a"] == 1
    with pytest.raises(BcachedError) as refused:
        other.get("a")
    assert isinstance(refused.value, DeviceError)
    assert "0 volumes have the label 'other', expected one" in str(refused.value)


async def test_a_reader_reads_and_is_refused_all_else(tmp_path: Path) -> None:
    access = RoleForNext()
    async with served(tmp_path, image=True, access=access) as it:
        with (
            Cache(it.path, "one") as writer,
            Cache(it.path, "one") as reader,
            Cache(it.path, "other") as other,
        ):
            await asyncio.to_thread(writer.set, "a", 1, wait=True)
            access.role = Role.READER
            await asyncio.to_thread(use_as_reader, reader, other)
            await asyncio.to_thread(reader.close)
            await asyncio.to_thread(writer.close)
