# SPDX-License-Identifier: GPL-2.0-only
"""A daemon in the foreground of a terminal, and what closing the terminal does to it."""

import os
import pty
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from instruments.clients.daemon_process import BIN, DaemonProcess
from instruments.time.patience import tries

# As `make run` has it: a shell leads the session, and the daemon is its child in the foreground. The first
# terminal that a session's leader opens is the session's.
ON_TERMINAL = 'exec <>"$2" >&0 2>&0; '
SCRIPT = ON_TERMINAL + '"$0" --config "$1"; exit $?'
NOHUP = ON_TERMINAL + 'trap "" HUP; "$0" --config "$1"; exit $?'


class OnTerminal(DaemonProcess):
    """The daemon on a terminal of its own; `process` is the shell."""

    def __init__(self, script: str) -> None:
        super().__init__()
        self._script = script
        self.controller, self._terminal = pty.openpty()

    def start(self) -> None:
        names = [str(BIN / "bcached"), str(self.config), os.ttyname(self._terminal)]
        self.process = subprocess.Popen(
            ["bash", "-c", self._script, *names],
            start_new_session=True,
            env={**os.environ, "NOTIFY_SOCKET": str(self.folder / "notify")},
        )
        os.close(self._terminal)

    @property
    def has_ended(self) -> bool:
        """Never, as far as is known: the shell may end before the daemon does."""
        return False

    def close_terminal(self) -> None:
        os.close(self.controller)

    def log_text(self) -> str:
        return "(on the terminal)"

    @property
    def daemon_pid(self) -> int:
        assert self.process is not None
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children") as children:
            return int(children.read().split()[0])


@contextmanager
def on_terminal(script: str) -> Iterator[tuple[OnTerminal, int]]:
    with OnTerminal(script) as daemon:
        pid = daemon.wait_until_ready().daemon_pid
        try:
            yield daemon, pid
        finally:
            if is_there(pid):
                os.kill(pid, signal.SIGKILL)


def is_there(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def comes_true(question: Callable[[], bool], within_s: float = 20.0) -> bool:
    return any(question() for _ in tries(within_s))


def test_closing_the_terminal_stops_the_daemon_cleanly() -> None:
    with on_terminal(SCRIPT) as (daemon, pid):
        daemon.close_terminal()
        daemon.wait_until_told("STOPPING", "1")
        assert comes_true(lambda: not is_there(pid))
        assert daemon.process is not None
        assert daemon.process.wait(20) == -signal.SIGHUP
        assert not daemon.socket_path.exists()
        checked = subprocess.run([BIN / "bcachectl", "check", daemon.folder / "cache.img"])
        assert checked.returncode == 0


def test_a_hangup_by_hand_reloads_while_the_terminal_is_there() -> None:
    with on_terminal(SCRIPT) as (daemon, pid):
        os.kill(pid, signal.SIGHUP)
        daemon.wait_until_told("RELOADING", "1")
        daemon.wait_until_ready()
        assert "parameters" in daemon.ask("Allocator.Describe")
        daemon.close_terminal()
        daemon.wait_until_told("STOPPING", "1")


def test_one_that_is_to_outlive_its_terminal_does() -> None:
    with on_terminal(NOHUP) as (daemon, pid):
        daemon.close_terminal()
        os.kill(pid, signal.SIGHUP)  # the shells of today send it to their jobs, too
        daemon.wait_until_told("RELOADING", "1")
        daemon.wait_until_ready()
        assert "parameters" in daemon.ask("Allocator.Describe")
        os.kill(pid, signal.SIGTERM)
        daemon.wait_until_told("STOPPING", "1")
        assert comes_true(lambda: not is_there(pid))


def test_a_stopped_terminal_holds_up_neither_requests_nor_the_end() -> None:
    with on_terminal(SCRIPT) as (daemon, pid):
        os.write(daemon.controller, b"\x13")  # Ctrl-S
        for _ in range(3):
            os.kill(pid, signal.SIGHUP)
            daemon.wait_until_told("RELOADING", "1")
            daemon.wait_until_told("READY", "1")
        assert "parameters" in daemon.ask("Allocator.Describe")
        os.kill(pid, signal.SIGTERM)
        daemon.wait_until_told("STOPPING", "1")
        assert comes_true(lambda: not is_there(pid))
        daemon.close_terminal()
