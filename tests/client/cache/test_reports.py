# SPDX-License-Identifier: GPL-2.0-only
"""What the daemon's figures say of reads that clients made without it."""

import re
import subprocess

from bcached.client import Cache
from instruments.clients.daemon_process import BIN, DaemonProcess
from instruments.time.patience import tries


def reported(daemon: DaemonProcess) -> tuple[int, int, int]:
    state = daemon.ask("Admin.Status")["parameters"]["state"]
    return state["client_hits"], state["client_misses"], state["client_hit_bytes"]


def test_every_read_of_a_closed_cache_is_in_the_figures(own_daemon: DaemonProcess) -> None:
    path = str(own_daemon.socket_path)
    with Cache(path) as cache, Cache(path) as other:
        cache.set("a", b"v" * 1000, wait=True)
        cache.set("b", b"v" * 100_000, wait=True)
        for _ in range(10):
            assert len(cache["a"]) == 1000
        assert len(cache["b"]) == 100_000
        assert other.get("c") is None  # asks the daemon
        for _ in range(3):
            assert other.get("c") is None  # known
    wanted = (11, 3, 110_000)
    for _ in tries(30):
        if reported(own_daemon) == wanted:
            break
    assert reported(own_daemon) == wanted
    metrics = own_daemon.scrape()
    for name, value in zip(("hits", "misses", "hit_bytes"), wanted, strict=True):
        (line,) = re.findall(rf"^bcached_client_{name}_total.* (\S+)$", metrics, re.MULTILINE)
        assert float(line) == value
    command = [str(BIN / "bcachectl"), "--socket", path, "status"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(r"client reads +11 hits \(107.4k\), 3 miss", told), told


def test_reads_are_reported_while_a_cache_is_open(own_daemon: DaemonProcess) -> None:
    with Cache(str(own_daemon.socket_path)) as cache:
        cache.set("a", b"v", wait=True)
        for _ in tries(30, pause_s=0.001):
            for _ in range(100):
                assert cache["a"] == b"v"
            if reported(own_daemon)[0] > 200:
                break
        assert reported(own_daemon)[0] > 200
