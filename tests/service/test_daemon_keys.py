# SPDX-License-Identifier: GPL-2.0-only
"""What was committed outlives the daemon, however it ends."""

import signal
import socket
from typing import Any

import pytest

from instruments.clients.daemon_process import DaemonProcess, ask


def committed(daemon: DaemonProcess, offset: int, **how: Any) -> dict[str, Any]:
    """A key that the daemon has acknowledged; its connection is gone."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(daemon.socket_path))
        answer = ask(connection, "Allocator.Allocate", inode=0, offset=offset, sectors=16)
        key: dict[str, Any]
        (key,) = answer["parameters"]["keys"]
        key["dirty"] = offset % 32 == 0
        assert "sequence" in ask(connection, "Allocator.Commit", keys=[key], **how)["parameters"]
    return key


def found(daemon: DaemonProcess) -> list[Any]:
    answer = daemon.ask("Allocator.Lookup", inode=0, offset=0, sectors=1 << 20)
    keys: list[Any] = answer["parameters"]["keys"]
    return keys


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_acknowledged_is_there_in_the_next_life(end: signal.Signals) -> None:
    with DaemonProcess() as daemon:
        daemon.wait_until_ready()
        daemon.ask("Admin.CreateVolume", label="first")
        keys = [committed(daemon, 48 * index) for index in range(20)]
        assert (
            daemon.ask("Allocator.Invalidate", inode=0, offset=48, sectors=16)["parameters"]["sectors"] == 16
        )
        clean = {**keys[2], "dirty": True}
        answer = daemon.ask("Allocator.MarkClean", keys=[clean])
        assert answer["parameters"]["cleaned"] == [True]
        keys[2]["dirty"] = False
        del keys[1]
        for _ in range(3):
            daemon.end(end)
            daemon.start()
            daemon.wait_until_ready()
            assert found(daemon) == keys
            assert daemon.ask("Admin.Verify")["parameters"]["violations"] == []
            keys.append(committed(daemon, keys[-1]["offset"] + 48))
        assert daemon.end() == 0


def test_what_was_flushed_is_there_after_a_kill_and_lazy_commits_after_a_stop() -> None:
    with DaemonProcess() as daemon:
        daemon.wait_until_ready()
        daemon.ask("Admin.CreateVolume", label="first")
        keys = [committed(daemon, 48 * index, durable=False) for index in range(20)]
        daemon.ask("Allocator.Flush")
        daemon.end(signal.SIGKILL)
        daemon.start()
        daemon.wait_until_ready()
        assert found(daemon) == keys
        keys.append(committed(daemon, 48 * 20, durable=False))
        assert daemon.end() == 0
        daemon.start()
        daemon.wait_until_ready()
        assert found(daemon) == keys
        assert daemon.end() == 0


def test_lookups_and_hits_are_metrics() -> None:
    with DaemonProcess() as daemon:
        daemon.wait_until_ready()
        daemon.ask("Admin.CreateVolume", label="first")
        committed(daemon, 0)
        for offset in (0, 8, 1600):
            daemon.ask("Allocator.Lookup", inode=0, offset=offset, sectors=8)
        lines = daemon.scrape().splitlines()
        for name, value in (("lookups", 3), ("lookup_hits", 2)):
            (line,) = (line for line in lines if line.startswith(f"bcached_{name}_total{{"))
            assert line.endswith(f" {value}.0")
        assert daemon.end() == 0
