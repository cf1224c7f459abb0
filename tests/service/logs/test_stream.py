# SPDX-License-Identifier: GPL-2.0-only
import fcntl
import os
import select
import time
from collections.abc import Iterator

import pytest

from bcached.service.logs.stream import LogStream, open_for_fault_handler

LINE = "x" * 99 + "\n"


class Pipe:
    """A pipe of one page, and a log stream into it."""

    def __init__(self, queue_bytes: int = 10_000) -> None:
        self.read_end, write_end = os.pipe()
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
        self.file = os.fdopen(write_end, "w")
        self.stream = LogStream(self.file, queue_bytes)

    def drain(self) -> bytes:
        """All that comes within a moment."""
        got = b""
        while select.select([self.read_end], [], [], 0.3)[0]:
            got += os.read(self.read_end, 65536)
        return got

    def close_read_end(self) -> None:
        os.close(self.read_end)
        self.read_end = -1


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    if pipe.read_end >= 0:
        pipe.close_read_end()  # whoever writes then is told so, and the thread waits for lines again
    assert pipe.stream.drain(5)
    pipe.file.close()


def write_lines(pipe: Pipe, count: int) -> int:
    """How many of the writes took a second."""
    slow = 0
    for _ in range(count):
        began = time.monotonic()
        pipe.stream.write(LINE)
        slow += time.monotonic() - began >= 1
    return slow


def test_lines_come_out_whole_and_in_order(pipe: Pipe) -> None:
    said = [f"line {number}\n" for number in range(50)]
    for line in said:
        pipe.stream.write(line)
    assert pipe.stream.drain(5)
    assert os.read(pipe.read_end, 65536).decode() == "".join(said)
    assert (pipe.stream.dropped, pipe.stream.is_behind) == (0, False)


def test_a_pipe_that_is_not_drained_holds_up_nobody_and_costs_bounded_memory(pipe: Pipe) -> None:
    assert write_lines(pipe, 1000) <= 1  # the machine may have paused
    assert not pipe.stream.drain(0.05)
    assert pipe.stream.is_behind
    taken = pipe.drain().count(b"\n")
    assert taken + pipe.stream.dropped == 1000
    assert 10_000 // 100 <= taken <= (4096 + 10_000) // 100


def test_lines_lost_are_told_of_once_even_if_the_telling_is_lost(pipe: Pipe) -> None:
    pipe.stream.write("x" * 9_999 + "\n")  # fills the queue until the pipe is drained
    write_lines(pipe, 1000)
    lost = pipe.stream.unreported
    assert lost == 1000
    pipe.stream.report_drops("lost in its turn\n", lost)  # there is no room for it
    assert pipe.stream.unreported == lost
    pipe.drain()
    assert not pipe.stream.is_behind
    pipe.stream.report_drops("so many were lost\n", lost)
    assert pipe.stream.drain(5)
    assert pipe.drain() == b"so many were lost\n"
    assert (pipe.stream.unreported, pipe.stream.dropped) == (0, lost)


def test_a_reader_that_is_gone_costs_lines_and_nothing_else(pipe: Pipe) -> None:
    pipe.close_read_end()
    write_lines(pipe, 10)
    assert pipe.stream.drain(5)
    assert pipe.stream.dropped == 10
    pipe.stream.report_drops("ten\n", 10)
    assert pipe.stream.drain(5)
    assert (pipe.stream.dropped, pipe.stream.unreported) == (10, 10)


def test_a_full_disk_costs_lines_and_nothing_else() -> None:
    with open("/dev/full", "w") as full:
        stream = LogStream(full)
        stream.write(LINE)
        assert stream.drain(5)
        assert stream.dropped == 1


def test_a_descriptor_that_others_made_non_blocking_is_waited_for_and_left_so(pipe: Pipe) -> None:
    os.set_blocking(pipe.file.fileno(), False)
    write_lines(pipe, 80)  # more than a page
    assert not pipe.stream.drain(0.05)
    assert pipe.drain().count(b"\n") == 80
    assert pipe.stream.drain(5)
    assert pipe.stream.dropped == 0
    assert not os.get_blocking(pipe.file.fileno())


def test_the_descriptors_flags_are_not_ours_to_change(pipe: Pipe) -> None:
    write_lines(pipe, 10)
    assert os.get_blocking(pipe.file.fileno())
    with open_for_fault_handler(pipe.file.fileno()) as last_words:  # type: ignore[union-attr]
        assert not os.get_blocking(last_words.fileno())
        assert os.get_blocking(pipe.file.fileno())


def test_last_words_go_to_the_same_place_and_do_not_wait(pipe: Pipe) -> None:
    with open_for_fault_handler(pipe.file.fileno()) as last_words:  # type: ignore[union-attr]
        assert last_words.write(b"died here\n") == 10
        while last_words.write(b"x" * 512):
            pass  # until there is no room any more
    assert pipe.drain().startswith(b"died here\n")


def test_last_words_do_not_overwrite_a_log_file(tmp_path: object) -> None:
    with open(f"{tmp_path}/log", "w+") as log:
        log.write("before\n")
        log.flush()
        with open_for_fault_handler(log.fileno()) as last_words:  # type: ignore[union-attr]
            last_words.write(b"died\n")
        log.seek(0)
        assert log.read() == "before\ndied\n"
