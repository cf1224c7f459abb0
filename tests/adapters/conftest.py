# SPDX-License-Identifier: GPL-2.0-only
from collections.abc import Iterator

import pytest

from bcached.adapters.shared_caches import close_shared_caches
from instruments.clients.daemon_process import DaemonProcess


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonProcess]:
    """A daemon on a set of 64 MiB; the tests of a module share it, and take volumes of their own."""
    with DaemonProcess() as process:
        process.wait_until_ready()
        yield process
        close_shared_caches()
        assert process.ask("Admin.Verify") == {"parameters": {"violations": []}}


@pytest.fixture
def own_daemon() -> Iterator[DaemonProcess]:
    """A daemon that the test may end."""
    with DaemonProcess() as process:
        yield process.wait_until_ready()
        close_shared_caches()
