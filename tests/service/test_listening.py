# SPDX-License-Identifier: GPL-2.0-only
import os
import socket
import stat
from pathlib import Path

import pytest

from bcached.errors import ConfigError
from bcached.service.listening import bind_metrics, bind_unix


def test_a_socket_gets_its_mode_and_listens(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with bind_unix(path, 0o640) as bound, socket.socket(socket.AF_UNIX) as client:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o640
        client.connect(path)
        assert not bound.getblocking()


def test_the_callers_umask_is_left_as_it_was(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        bind_unix(str(tmp_path / "s"), 0o660).close()
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def test_an_unknown_group_leaves_our_own(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with bind_unix(path, 0o660, "no-such-group"):
        assert os.stat(path).st_gid == os.getegid()


def test_what_was_left_by_a_dead_daemon_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    bind_unix(path, 0o660).close()
    with bind_unix(path, 0o660), socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def test_a_live_socket_is_refused_and_lives_on(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with bind_unix(path, 0o660):
        with pytest.raises(ConfigError, match="another process is listening there"):
            bind_unix(path, 0o660)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)


def test_somebody_elses_dead_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "s")
    bind_unix(path, 0o660).close()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ConfigError, match=f"belongs to uid {os.getuid()}"):
        bind_unix(path, 0o660)


@pytest.mark.parametrize("path", ["/nowhere/at/all", "/proc/s", "x" * 200])
def test_a_place_that_cannot_be_is_told_in_one_line(path: str) -> None:
    with pytest.raises(ConfigError, match="cannot listen") as caught:
        bind_unix(path, 0o660)
    assert "\n" not in str(caught.value)


def test_metrics_may_listen_on_every_address_of_a_name() -> None:
    bound = bind_metrics("localhost:0")
    assert bound
    for listener in bound:
        host, port, *_ = listener.getsockname()
        socket.create_connection((host, port), timeout=5).close()
        listener.close()


def test_of_several_addresses_none_is_kept_if_one_cannot_be_had() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"metrics.listen: cannot listen on localhost:{port}: "):
            bind_metrics(f"localhost:{port}")


def test_a_host_that_is_not_known_is_told_in_one_line() -> None:
    with pytest.raises(
        ConfigError, match=r"metrics.listen: cannot listen on no-such-host.invalid:1: "
    ) as caught:
        bind_metrics("no-such-host.invalid:1")
    assert "\n" not in str(caught.value)


def test_metrics_may_be_nowhere() -> None:
    assert bind_metrics("") == []
