# SPDX-License-Identifier: GPL-2.0-only
"""A real daemon on a small image, for the verbs that talk to one."""

from collections.abc import Iterator

import pytest

from instruments.clients.daemon_process import DaemonProcess
from instruments.clients.shell import Shell


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    """A daemon on a fresh set of 1,024 buckets of 64k, with one volume whose inode is 0."""
    with DaemonProcess() as daemon:
        daemon.wait_until_ready()
        shell = Shell(daemon.socket_path)
        assert shell.told("volume", "create", "first") == "0\n"
        yield shell
        assert daemon.end() == 0
