# SPDX-License-Identifier: GPL-2.0-only
"""What is durable shares no page with what is written later, which would have it written again in place."""

import mmap
import subprocess
from collections.abc import Callable, Iterator

import pytest

from bcached.client import BlockingClient, Cache
from bcached.client.cache.values.names import SLOT_SECTORS, offset_of
from bcached.units import SECTOR_BYTES
from instruments.clients.daemon_process import BIN, DaemonProcess


@pytest.fixture(scope="module")
def small_blocks() -> Iterator[DaemonProcess]:
    """A daemon on a set whose blocks are sectors, so that a page has several."""
    daemon = DaemonProcess()
    path = str(daemon.folder / "cache.img")
    subprocess.run([BIN / "bcachectl", "make", "-b", "32k", "-w", "512", "--size", "32M", path], check=True)
    with daemon:
        yield daemon.wait_until_ready()


def pages_of(client: BlockingClient, volume: str, name: str) -> set[int]:
    """The pages of the device that have sectors of an object."""
    inode = client.open_volume(volume)[0]
    keys = client.lookup(inode, offset_of(name.encode()), SLOT_SECTORS).keys
    assert keys
    begins = [key.pointers[0].sector * SECTOR_BYTES for key in keys]
    ends = [begin + key.sectors * SECTOR_BYTES for begin, key in zip(begins, keys, strict=True)]
    return {
        page
        for begin, end in zip(begins, ends, strict=True)
        for page in range(begin // mmap.PAGESIZE, -(-end // mmap.PAGESIZE))
    }


def add_durably(cache: Cache) -> None:
    assert cache.add("durable", b"v" * 700, durable=True)


def set_durably(cache: Cache) -> None:
    cache.set("durable", b"v" * 700, durable=True)


def set_and_flush(cache: Cache) -> None:
    cache.set("durable", b"v" * 700)
    cache.flush()


@pytest.mark.parametrize("store", [set_durably, add_durably, set_and_flush])
def test_a_later_object_begins_on_another_page(
    small_blocks: DaemonProcess, store: Callable[[Cache], None]
) -> None:
    path = str(small_blocks.socket_path)
    with BlockingClient(path) as client, Cache(path, store.__name__) as cache:
        cache.set("before", b"v" * 300, wait=True)
        store(cache)
        cache.set("after", b"v" * 300, wait=True)
        cache.set("later", b"v" * 300, wait=True)
        before, durable, after, later = (
            pages_of(client, store.__name__, name) for name in ("before", "durable", "after", "later")
        )
        assert before & durable, "what is not durable shares pages"
        assert not durable & (after | later)
        assert after == later
