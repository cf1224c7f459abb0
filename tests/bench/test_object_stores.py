# SPDX-License-Identifier: GPL-2.0-only
"""Each store that `objects` compares keeps what it is given: one that loses it would be easy to beat."""

import os
from pathlib import Path
from random import Random

import pytest

from bench.object_processes import CALLS, PROCESSES, rate
from bench.object_stores import Peer, peers
from bench.zipf import drawn
from instruments.clients.daemon_process import DaemonProcess


@pytest.mark.timeout(300)
def test_every_store_returns_what_was_stored_last(tmp_path: Path) -> None:
    skipped: list[str] = []
    values = [os.urandom(length) for length in (200, 4096, 65_536, (1 << 20) + 1)]
    with DaemonProcess() as daemon:
        path = str(daemon.wait_until_ready().socket_path)
        with peers(tmp_path, path, skipped.append) as found:
            assert len(found) + len(skipped) >= 6
            for peer in found:
                store = peer.open()
                assert store.get("nothing") is None, peer.name
                for _ in range(2):
                    for number, value in enumerate(values):
                        store.set(f"{number}", value[::-1])
                        store.set(f"{number}", value)
                store.settle()
                for number, value in enumerate(values):
                    assert store.get(f"{number}") == value, peer.name
                store.close()


@pytest.mark.timeout(300)
def test_processes_work_side_by_side(tmp_path: Path) -> None:
    class Counted:
        def set(self, name: str, _: bytes) -> None:
            (tmp_path / name).touch()

        def get(self, name: str) -> object:
            return (tmp_path / name).exists() or None

        def settle(self) -> None:
            (tmp_path / f"settled {os.getpid()}").touch()

        def close(self) -> None:
            pass

    assert rate(Peer("counted", Counted), 1) > 0
    assert len([*tmp_path.glob("settled *")]) == PROCESSES
    assert CALLS > len([*tmp_path.glob("shared-*")]) > 100


def test_small_numbers_are_drawn_more_often() -> None:
    numbers = drawn(10_000, 100, Random(1))
    counts = [numbers.count(number) for number in range(100)]
    assert counts[0] > 5 * counts[30] > 0
    assert set(numbers) <= set(range(100))
