# SPDX-License-Identifier: GPL-2.0-only
"""The terminal that a daemon in the foreground was started on, and whether it is closed.

SIGHUP has two meanings: reload the configuration (from a service manager), or the terminal was closed.
"""

import signal


class Terminal:
    """To be made while SIGHUP has its inherited action: under nohup (ignored) the daemon keeps running."""

    def __init__(self) -> None:
        self._ends_daemon = has_terminal() and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN

    @property
    def is_closed(self) -> bool:
        """Whether the process had a terminal and has none any more."""
        return self._ends_daemon and not has_terminal()


def has_terminal() -> bool:
    """Whether this process has a controlling terminal."""
    try:
        open("/dev/tty", "rb", buffering=0).close()
    except OSError:
        return False
    return True
