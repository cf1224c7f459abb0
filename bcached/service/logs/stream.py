# SPDX-License-Identifier: GPL-2.0-only
"""Replaces stderr: queues lines without blocking, and a thread of its own writes them.

stderr may be a pipe that is not drained, a terminal stopped by Ctrl-S, a full disk, a pipe without a reader.
A write to it may then block or fail for any length of time, which the event loop must not notice. So lines
are queued, bounded; lines that do not fit, and those that cannot be written, are dropped and counted. The
descriptor's flags are left alone: every process that has it open shares them.
"""

import io
import os
import select
import threading
from queue import SimpleQueue
from typing import NamedTuple, TextIO

from bcached.device.kernel_calls import reopened

QUEUE_BYTES = 1 << 20
RETRY_S = 0.01  # between tries at a descriptor that others made non-blocking


class Line(NamedTuple):
    """Bytes to be written; drops_reported is how many drops they report, 0 for any other line."""

    data: bytes
    drops_reported: int = 0


class LogStream(io.TextIOBase):
    """A text stream whose write() never waits."""

    def __init__(self, file: TextIO, queue_bytes: int = QUEUE_BYTES) -> None:
        self._file = file  # kept open; only its descriptor is written to
        self._descriptor = file.fileno()
        self._queue_bytes = queue_bytes
        self._queue: SimpleQueue[Line | threading.Event] = SimpleQueue()
        self._queueing = threading.RLock()  # reentrant: a finalizer that logs may run within a write
        self._queued_bytes = 0  # since the start, as are the others; each is changed by one thread only
        self._refused = 0
        self._done_bytes = 0
        self._failed = 0
        self._reported = 0
        self._is_torn = False  # the last line was written in part
        threading.Thread(target=self._run, name="log", daemon=True).start()

    # For logging code

    def write(self, text: str) -> int:
        """Queue a line, or drop it if the queue is full."""
        self._put(Line(text.encode(errors="backslashreplace")))
        return len(text)

    def report_drops(self, text: str, drops: int) -> None:
        """Queue a line that reports so many drops; if it is lost, they stay unreported."""
        self._put(Line(text.encode(errors="backslashreplace"), drops))

    def drain(self, seconds: float) -> bool:
        """Wait for so many seconds until the queue is written or dropped; returns whether it is."""
        reached = threading.Event()
        self._queue.put(reached)
        return reached.wait(seconds)

    @property
    def dropped(self) -> int:
        """Returns how many lines were lost so far."""
        return self._refused + self._failed

    @property
    def unreported(self) -> int:
        """Returns how many lost lines were not reported on stderr yet."""
        return self.dropped - self._reported

    @property
    def is_behind(self) -> bool:
        """Whether something is still to be written."""
        return self._done_bytes < self._queued_bytes

    # The interface of a stream

    def fileno(self) -> int:
        """Returns the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """Returns True."""
        return True

    def flush(self) -> None:
        """Do nothing: it would have to block."""

    # Writing

    def _put(self, line: Line) -> None:
        with self._queueing:
            if self._queued_bytes - self._done_bytes + len(line.data) <= self._queue_bytes:
                self._queued_bytes += len(line.data)
                self._queue.put(line)
            elif not line.drops_reported:
                self._refused += 1

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            if isinstance(item, threading.Event):
                item.set()
                continue
            self._settle(item, self._write_out(item.data))
            self._done_bytes += len(item.data)

    def _settle(self, line: Line, is_written: bool) -> None:
        if line.drops_reported and is_written:
            self._reported += line.drops_reported
        elif not line.drops_reported and not is_written:
            self._failed += 1

    def _write_out(self, data: bytes) -> bool:
        """Write all of it, however long that takes; returns False if it cannot be written."""
        left = memoryview(b"\n" + data if self._is_torn else data)
        while left:
            try:
                count = os.write(self._descriptor, left)
            except BlockingIOError:
                self._wait()
            except OSError:
                self._is_torn = self._is_torn or len(left) < len(data)
                return False
            else:
                left = left[count:]
        self._is_torn = False
        return True

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        poll.poll()
        threading.Event().wait(RETRY_S)


def open_for_fault_handler(descriptor: int) -> io.RawIOBase | int:
    """Returns what a dying process writes to the same stream with, without a thread or blocking.

    A socket cannot be opened a second time, nor can another user's file: for these it is the descriptor.
    """
    try:
        return io.FileIO(reopened(descriptor, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK), "ab")
    except OSError:
        return descriptor
