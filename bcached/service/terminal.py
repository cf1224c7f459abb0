"""The terminal a daemon in the foreground was started on, and whether it is gone.

SIGHUP may say two things: that the configuration is to be read again, as service managers mean it, or
that the terminal was closed.
"""

import signal


class Terminal:
    """To be made while SIGHUP is as we were started with: who ignores it (nohup) is to be left running."""

    def __init__(self) -> None:
        self._is_followed = has_terminal() and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN

    @property
    def is_gone(self) -> bool:
        """Whether we had one, and have none any more."""
        return self._is_followed and not has_terminal()


def has_terminal() -> bool:
    """Whether this process has a controlling terminal."""
    try:
        open("/dev/tty", "rb", buffering=0).close()
    except OSError:
        return False
    return True
