# SPDX-License-Identifier: GPL-2.0-only
"""Who holds a lock: the process that took it, else those that inherited it, and never an innocent one."""

import fcntl
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bcached.device.claims.lock_holders import (
    Process,
    flock_holders,
    openers,
    process,
    record_lock_holders,
)

HOLD = "import fcntl, sys; file = open(sys.argv[1], 'r+b'); {}; print('held', flush=True); sys.stdin.read()"
FLOCK = "fcntl.flock(file, fcntl.LOCK_SH)"
POSIX = "fcntl.lockf(file, fcntl.LOCK_EX)"
OPEN_ONLY = "pass"


@contextmanager
def another(path: Path, lock: str) -> Iterator[int]:
    """The pid of a process that holds the lock until the block ends."""
    command = [sys.executable, "-c", HOLD.format(lock), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield holder.pid
        holder.communicate(b"")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.touch()
    return path


def test_the_process_that_took_a_flock(file: Path) -> None:
    with another(file, FLOCK) as pid, file.open("rb") as ours:
        assert [(one.kind, one.process.pid) for one in flock_holders(ours.fileno())] == [("READ", pid)]
        assert record_lock_holders(ours.fileno()) == []
    with file.open("rb") as ours:
        assert flock_holders(ours.fileno()) == []


def test_a_posix_lock_is_no_flock(file: Path) -> None:
    with another(file, POSIX) as pid, file.open("rb") as ours:
        assert [one.pid for one in record_lock_holders(ours.fileno())] == [pid]
        assert flock_holders(ours.fileno()) == []


def test_a_lock_of_an_open_file_description_is_found_by_its_holders_files(file: Path) -> None:
    with file.open("r+b") as ours:
        fcntl.fcntl(ours, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        assert [one.pid for one in record_lock_holders(ours.fileno())] == [os.getpid()]


def test_a_flock_whose_taker_has_ended_is_its_heirs(file: Path) -> None:
    taker = "import fcntl, os, subprocess, sys; file = open(sys.argv[1]); fcntl.flock(file, fcntl.LOCK_EX); "
    taker += "os.set_inheritable(file.fileno(), True); "
    taker += "quiet = subprocess.DEVNULL; "
    taker += "print(subprocess.Popen(['sleep', '60'], close_fds=False, stdout=quiet, stderr=quiet).pid)"
    done = subprocess.run(
        [sys.executable, "-c", taker, str(file)], capture_output=True, check=True, text=True
    )
    heir = int(done.stdout)
    try:
        with file.open("rb") as ours:
            assert [one.process.pid for one in flock_holders(ours.fileno())] == [heir]
    finally:
        os.kill(heir, 9)


def test_a_process_that_only_has_it_open_holds_no_lock_but_is_an_opener(file: Path) -> None:
    with another(file, OPEN_ONLY) as pid, file.open("rb") as ours:
        assert flock_holders(ours.fileno()) == []
        assert pid in [one.pid for one in openers(os.fstat(ours.fileno()))]


def test_a_hard_link_is_the_same_file_and_a_copy_is_not(file: Path, tmp_path: Path) -> None:
    os.link(file, tmp_path / "link")
    (tmp_path / "copy").touch()
    with another(tmp_path / "link", FLOCK) as pid:
        with file.open("rb") as ours:
            assert [one.process.pid for one in flock_holders(ours.fileno())] == [pid]
        with (tmp_path / "copy").open("rb") as other:
            assert flock_holders(other.fileno()) == []


def test_a_process_is_named_by_what_is_known_of_it() -> None:
    here = process(os.getpid())
    assert (here.pid, here.uid) == (os.getpid(), os.getuid())
    assert str(os.getpid()) in str(here)
    assert str(Process(0)) == "another process"
    assert "ended" in str(Process(7, has_ended=True))
    assert str(process(1 << 30)) == f"process {1 << 30}"
