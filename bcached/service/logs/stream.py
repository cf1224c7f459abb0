"""Stands in for stderr: takes lines at once, and a thread of its own writes them.

stderr may be a pipe that is not drained, a terminal stopped by Ctrl-S, a disk that is full, a reader that has
gone. A write to it may then block or fail for as long as it likes; the event loop must not notice. So lines
queue up, bounded; those there is no room for, and those that cannot be written, are dropped and counted. The
descriptor's flags are left alone: they belong to every process that shares it.
"""

import io
import os
import select
import threading
from queue import SimpleQueue
from typing import NamedTuple, TextIO

from bcached.device.kernel_calls import reopened

ROOM_BYTES = 1 << 20
RETRY_S = 0.01  # between tries at a descriptor that others made non-blocking


class Line(NamedTuple):
    """Bytes to be written; tells_of is how many drops they tell of, 0 for a line like any other."""

    data: bytes
    tells_of: int = 0


class LogStream(io.TextIOBase):
    """A text stream whose write() never waits."""

    def __init__(self, file: TextIO, room_bytes: int = ROOM_BYTES) -> None:
        self._file = file  # kept open, and not written to by itself
        self._descriptor = file.fileno()
        self._room_bytes = room_bytes
        self._queue: SimpleQueue[Line | threading.Event] = SimpleQueue()
        self._queueing = threading.RLock()  # a finalizer that complains may run within a write
        self._queued_bytes = 0  # of all time, as are the others; each is changed by one side only
        self._refused = 0
        self._done_bytes = 0
        self._failed = 0
        self._told = 0
        self._is_torn = False  # the last line was written in part
        threading.Thread(target=self._run, name="log", daemon=True).start()

    # What those who log call

    def write(self, text: str) -> int:
        """Queue a line, or drop it where there is no room."""
        self._put(Line(text.encode(errors="backslashreplace")))
        return len(text)

    def tell_of_drops(self, text: str, drops: int) -> None:
        """Queue a line that tells of so many drops; its own loss is not counted, and leaves them untold."""
        self._put(Line(text.encode(errors="backslashreplace"), drops))

    def drain(self, seconds: float) -> bool:
        """Wait until all that is queued is written or dropped, for so long; whether it is."""
        reached = threading.Event()
        self._queue.put(reached)
        return reached.wait(seconds)

    @property
    def dropped(self) -> int:
        """How many lines were lost so far."""
        return self._refused + self._failed

    @property
    def untold(self) -> int:
        """How many of them no line on stderr has told of."""
        return self.dropped - self._told

    @property
    def is_behind(self) -> bool:
        """Whether something is still to be written."""
        return self._done_bytes < self._queued_bytes

    # What a stream has

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """Yes."""
        return True

    def flush(self) -> None:
        """Nothing: it would have to wait."""

    # Writing

    def _put(self, line: Line) -> None:
        with self._queueing:
            if self._queued_bytes - self._done_bytes + len(line.data) <= self._room_bytes:
                self._queued_bytes += len(line.data)
                self._queue.put(line)
            elif not line.tells_of:
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
        if line.tells_of and is_written:
            self._told += line.tells_of
        elif not line.tells_of and not is_written:
            self._failed += 1

    def _write_out(self, data: bytes) -> bool:
        """Write all of it, however long that takes; False if it cannot be written."""
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


def for_last_words(descriptor: int) -> io.RawIOBase | int:
    """Where a dying process may write without a thread's help, and without waiting, to the same place.

    A socket cannot be opened a second time, nor can what belongs to another user: there it is the descriptor.
    """
    try:
        return io.FileIO(reopened(descriptor, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK), "ab")
    except OSError:
        return descriptor
