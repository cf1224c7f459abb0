# SPDX-License-Identifier: GPL-2.0-only
"""A socket in front of a daemon's: what must happen between a reply and its arrival happens there."""

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

Hook = Callable[[bytes], None]


class Relay:
    """Passes everything on, both ways, for one client after the other; `before` sees replies first, in parts.

    The connection to the daemon ends with the client's; without a daemon, both end at once.
    """

    def __init__(self, path: Path, target: Path, before: Hook) -> None:
        self.path = path
        self._target = target
        self._before = before
        self._listener = socket.socket(socket.AF_UNIX)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._end = threading.Event()
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(30)
        if self._failure is not None:
            raise self._failure

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while not self._end.is_set():
                client, _ = self._listener.accept()
                with client, socket.socket(socket.AF_UNIX) as daemon, contextlib.suppress(OSError):
                    daemon.connect(str(self._target))
                    requests = threading.Thread(target=self._pass, args=(client, daemon, None), daemon=True)
                    requests.start()
                    self._pass(daemon, client, self._before)
                    requests.join(30)

    def _pass(self, source: socket.socket, target: socket.socket, before: Hook | None) -> None:
        try:
            while data := source.recv(1 << 16):
                if before is not None:
                    before(data)
                target.sendall(data)
        except OSError:
            pass
        except BaseException as failure:  # raised at the end
            self._failure = failure
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
