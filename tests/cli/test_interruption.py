# SPDX-License-Identifier: GPL-2.0-only
"""Ctrl-C ends a verb with one line and status 130, and leaves everything as it was.

A map that is a named pipe holds a verb at a known place: it can be opened for writing only when the verb has
it open for reading.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bcached.cli.interruption import signals_deferred, signals_interrupt
from instruments.samples.damaged_kernel_image import backing_bytes, wrong_sectors
from instruments.samples.kernel_images import image_bytes
from instruments.time.patience import tries

BIN = Path(sys.executable).parent
INTERRUPTED = 130
PATIENCE_S = 100


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[tuple[Path, Path, Path]]:
    """A cache, its backing device, and a map that nothing is written to yet: a pipe below /dev may be one."""
    cache, backing = tmp_path / "cache.img", tmp_path / "backing.img"
    pipe = Path("/dev/shm") / f"bcached-map-{os.getpid()}"
    cache.write_bytes(image_bytes("crash"))
    backing.write_bytes(backing_bytes("crash"))
    os.mkfifo(pipe)
    yield cache, backing, pipe
    pipe.unlink()


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        (["rescue", "-n"], "bcachectl: interrupted\n"),
        (["rescue", "--yes"], "bcachectl: interrupted\n"),
        (["check", "--data"], "bcachectl: interrupted: a check changes nothing\n"),
        (["--json", "check"], "bcachectl: interrupted: a check changes nothing\n"),
    ],
    ids=["rescue -n", "rescue", "check", "check of the index"],
)
def test_a_verb_that_is_interrupted_says_so_in_one_line(
    paths: tuple[Path, Path, Path], verb: list[str], said: str
) -> None:
    cache, backing, pipe = paths
    command: list[str | Path] = [BIN / "bcachectl", *verb, cache, "--backing", backing, "--map", pipe]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        with pipe.open("w"):  # it waits for the map
            program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=PATIENCE_S)
    assert (program.returncode, out, err) == (INTERRUPTED, "", said)
    assert (cache.read_bytes(), backing.read_bytes()) == (image_bytes("crash"), backing_bytes("crash"))


def test_a_rescue_interrupted_while_it_writes_is_continued(paths: tuple[Path, Path, Path]) -> None:
    """Whenever the signal comes, what the backing device has is right, and the next run completes it."""
    cache, backing, _ = paths
    command: list[str | Path] = [BIN / "bcachectl", "rescue", "--yes", cache, "--backing", backing]
    before = backing.stat().st_mtime_ns
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        for _ in tries(PATIENCE_S):
            if program.poll() is not None or backing.stat().st_mtime_ns != before:
                break
        program.send_signal(signal.SIGINT)
        _, err = program.communicate(timeout=PATIENCE_S)
    assert program.returncode in {0, INTERRUPTED}
    assert wrong_sectors("crash", backing.read_bytes()) <= wrong_sectors("crash", backing_bytes("crash"))
    if program.returncode:
        assert err.endswith("is right; the same command continues\n")
        assert err.count("\n") == 1
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert cache.read_bytes() == image_bytes("crash")
    assert wrong_sectors("crash", backing.read_bytes()) == set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_defers_signals_is_not_interrupted_half_done(number: signal.Signals) -> None:
    done = []

    def work() -> None:
        with signals_deferred():
            signal.raise_signal(number)
            done.append("first")
        done.append("second")

    with pytest.raises(KeyboardInterrupt), signals_interrupt():
        work()
    assert done == ["first"]
