# SPDX-License-Identifier: GPL-2.0-only
import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bcached.errors import ConfigError
from bcached.service.notify import Notifier, inherited_sockets


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@bcached-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address.replace("@", "\0"))
        listener.settimeout(5)
        yield listener, address


def test_each_state_is_one_datagram(manager: tuple[socket.socket, str]) -> None:
    listener, address = manager
    notifier = Notifier({"NOTIFY_SOCKET": address})
    notifier.ready("serving\n2 devices")
    notifier.status("replaying")
    notifier.alive()
    notifier.need_more_time(2.5)
    notifier.failed("device gone", 5)
    notifier.stopping()
    notifier.close()
    told = [listener.recv(4096).decode().split("\n") for _ in range(6)]
    assert told == [
        ["READY=1", "STATUS=serving 2 devices"],
        ["STATUS=replaying"],
        ["WATCHDOG=1"],
        ["EXTEND_TIMEOUT_USEC=2500000"],
        ["STATUS=device gone", "ERRNO=5"],
        ["STOPPING=1", "STATUS=stopping"],
    ]


def test_reloading_says_when_it_began(manager: tuple[socket.socket, str]) -> None:
    listener, address = manager
    notifier = Notifier({"NOTIFY_SOCKET": address})
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    notifier.close()
    told = dict(line.split("=") for line in listener.recv(4096).decode().split("\n"))
    assert told["RELOADING"] == "1"
    assert before <= int(told["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "relative", "vsock:2:1", "@nobody-listens-here"])
def test_without_a_manager_nothing_happens(address: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address})
    notifier.ready("serving")
    notifier.close()
    notifier.ready("after the end")


def test_a_manager_that_does_not_read_holds_nobody(manager: tuple[socket.socket, str]) -> None:
    _, address = manager
    notifier = Notifier({"NOTIFY_SOCKET": address})
    for _ in range(5000):
        notifier.alive()
    notifier.close()


@pytest.mark.parametrize(
    ("environment", "interval_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
    ],
)
def test_the_watchdog_is_fed_only_when_it_is_ours(
    environment: dict[str, str], interval_s: float | None
) -> None:
    assert Notifier(environment).watchdog_s == interval_s


PROGRAM = """
import os, sys
from bcached.errors import ConfigError
from bcached.service.notify import inherited_sockets
os.environ["LISTEN_PID"] = str(os.getpid())
try:
    found = inherited_sockets()
except ConfigError as error:
    sys.exit(str(error))
print({name: [s.getsockname() for s in sockets] for name, sockets in found.items()},
      any(s.get_inheritable() for sockets in found.values() for s in sockets))
"""


def run(descriptors: list[int], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program with the descriptors as 3, 4, ..., as systemd does."""
    moves = " ".join(f"{3 + index}<&{descriptor}" for index, descriptor in enumerate(descriptors))
    return subprocess.run(
        ["bash", "-c", f'exec "$0" -c "$1" {moves}', sys.executable, PROGRAM],
        pass_fds=descriptors,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_sockets_are_taken_by_their_names(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as varlink, socket.create_server(("127.0.0.1", 0)) as metrics:
        varlink.bind(str(tmp_path / "s"))
        varlink.listen()
        high = [fcntl.fcntl(taken.fileno(), fcntl.F_DUPFD, 50) for taken in (varlink, metrics)]
        result = run(high, LISTEN_FDS="2", LISTEN_FDNAMES="varlink:metrics")
        for descriptor in high:
            os.close(descriptor)
        named = {"varlink": [str(tmp_path / "s")], "metrics": [metrics.getsockname()]}
        assert result.stdout.strip() == f"{named} False"


def test_a_socket_without_a_name_is_the_clients(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as varlink:
        varlink.bind(str(tmp_path / "s"))
        varlink.listen()
        assert run([varlink.fileno()], LISTEN_FDS="1").stdout.startswith("{'varlink': [")


def test_what_is_no_listening_socket_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        assert "descriptor 3 (varlink): expected a socket" in run([file.fileno()], LISTEN_FDS="1").stderr
    with socket.socket(socket.AF_UNIX) as unbound:
        message = run([unbound.fileno()], LISTEN_FDS="1").stderr
        assert "expected a listening stream socket" in message
    assert "expected 1 names, found 2" in run([], LISTEN_FDS="1", LISTEN_FDNAMES="a:b").stderr
    assert "expected a number, found 'x'" in run([], LISTEN_FDS="x").stderr


def test_sockets_meant_for_another_process_are_left_alone() -> None:
    assert inherited_sockets({"LISTEN_PID": "1", "LISTEN_FDS": "3"}) == {}
    assert inherited_sockets({}) == {}


def test_a_missing_count_is_refused() -> None:
    with pytest.raises(ConfigError, match="LISTEN_FDS"):
        inherited_sockets({"LISTEN_PID": str(os.getpid())})
