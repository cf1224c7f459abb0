# SPDX-License-Identifier: GPL-2.0-only
"""Verbs that write, ended by a signal or a device that fails: nothing is lost, the same command continues."""

import errno
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bcached.cli.interruption import run_interruptibly
from bcached.cli.main import bcachectl
from instruments.samples.damaged_kernel_image import backing_bytes, wrong_sectors
from instruments.samples.kernel_images import image_bytes

FAILED, INTERRUPTED = 1, 130
Mishap = Callable[[], None]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(bcachectl, list(map(str, arguments)))


class Writes:
    """Counts the writes of this process, and has a mishap at one of them, and at all behind a failed one."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count, self._at = 0, 0
        self._mishap: Mishap = lambda: None
        self._lock = threading.Lock()  # several threads write
        patch.setattr(os, "pwritev", self._counted(os.pwritev))

    def expect(self, at: int, mishap: Mishap) -> None:
        self.count, self._at, self._mishap = 0, at, mishap

    def _counted(self, call: Callable[..., int]) -> Callable[..., int]:
        def counted(*arguments: Any) -> int:
            with self._lock:
                self.count += 1
                if 0 < self._at <= self.count:
                    self._mishap()
            return call(*arguments)

        return counted

    def raising(self, number: int) -> Mishap:
        """A signal, once."""

        def mishap() -> None:
            self._at = 0
            os.kill(os.getpid(), number)

        return mishap


def failing(number: int) -> Mishap:
    def mishap() -> None:
        raise OSError(number, os.strerror(number))

    return mishap


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Writes:
    return Writes(monkeypatch)


def a_run(verb: str, folder: Path) -> list[object]:
    """The command, with new files."""
    cache, backing = folder / "cache.img", folder / "backing.img"
    name = {"rescue": "crash", "rescue to": "crash", "clone": "clean", "warm": "clean"}.get(verb, "full-lru")
    cache.write_bytes(image_bytes(name))
    if verb == "resize":
        return ["resize", "--yes", cache, "12M"]
    if verb == "clone":
        return ["clone", "--yes", cache, folder / "new.img"]
    backing.write_bytes(backing_bytes(name))
    (folder / "ranges").write_text("0 1M\n")
    (folder / "volume.img").touch()  # as a run that was killed at its beginning leaves it
    return {
        "rescue": ["rescue", "--yes", cache, "--backing", backing],
        "rescue to": ["rescue", "--yes", cache, "--volume", 0, "--to", folder / "volume.img"],
        "warm": ["warm", "--yes", cache, "--backing", backing, "--ranges", folder / "ranges"],
    }[verb]


@pytest.mark.parametrize("verb", ["rescue", "rescue to", "clone", "resize", "warm"])
def test_the_same_command_continues(verb: str, writes: Writes, tmp_path: Path) -> None:
    command = a_run(verb, tmp_path)
    mishaps = [
        (writes.raising(signal.SIGTERM), INTERRUPTED, "interrupted: "),
        (writes.raising(signal.SIGHUP), INTERRUPTED, "interrupted: "),
        (failing(errno.ENOSPC), FAILED, "No space left on device; "),
        (failing(errno.EIO), FAILED, "Input/output error; "),
    ]
    for at, (mishap, status, said) in enumerate(mishaps, 2):
        writes.expect(at, mishap)
        ended = run(*command)
        assert (ended.exit_code, ended.stdout) == (status, ""), ended.stderr
        (line,) = ended.stderr.splitlines()
        assert said in line
        assert "the same command continues" in line
        if verb in {"resize", "warm"}:
            assert run("check", tmp_path / "cache.img").exit_code == 0, "it is sound at any time"
    writes.expect(0, failing(errno.EIO))
    done = run(*command)
    assert done.exit_code == 0, done.stderr
    if verb == "rescue":
        assert not wrong_sectors("crash", (tmp_path / "backing.img").read_bytes())
    elif verb != "rescue to":
        assert run("check", tmp_path / ("new.img" if verb == "clone" else "cache.img")).exit_code == 0


@pytest.mark.parametrize("at", range(1, 7))
def test_a_make_continues_as_it_says(at: int, writes: Writes, tmp_path: Path) -> None:
    paths = [tmp_path / "one.img", tmp_path / "two.img"]
    for path in paths:
        path.touch()
        os.truncate(path, 40 << 20)
    writes.expect(at, writes.raising(signal.SIGTERM))
    ended = run("make", "-b", "64k", *paths)
    assert (ended.exit_code, ended.stderr.count("\n")) == (INTERRUPTED, 1)
    assert "the same command continues, with --wipe-bcache" in ended.stderr
    again = run("make", "-b", "64k", *paths)
    assert again.exit_code == 0 or again.stderr.endswith("; --wipe-bcache erases it\n"), again.stderr
    assert run("make", "--wipe-bcache", "-b", "64k", *paths).exit_code == 0
    assert run("check", *paths).exit_code == 0


def test_a_signal_that_is_ignored_stays_so_and_another_one_ends_it() -> None:
    async def raising(number: int) -> str:
        signal.raise_signal(number)
        await Turns()
        return "done"

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_interruptibly(raising(signal.SIGHUP)) == "done"
        with pytest.raises(KeyboardInterrupt):
            run_interruptibly(raising(signal.SIGTERM))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


class Turns:
    """Lets the loop run for some turns."""

    def __await__(self) -> Any:
        for _ in range(5):
            yield
