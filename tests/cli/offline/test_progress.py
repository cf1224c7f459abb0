# SPDX-License-Identifier: GPL-2.0-only
"""What the offline verbs show on a terminal while they read, and that they show nothing elsewhere."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bcached.cli.offline.consent import progress_line, reading_line
from instruments.samples.damaged_kernel_image import backing_bytes
from instruments.samples.kernel_images import image_bytes

BIN = Path(sys.executable).parent
MAIN = """
import itertools, sys
from bcached.cli.offline import consent
consent.reading_line.__wrapped__.__defaults__ = (itertools.count(0, 2).__next__,)
from bcached.cli.main import bcachectl
bcachectl()
"""  # each node takes two seconds


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    cache, backing = tmp_path / "cache.img", tmp_path / "backing.img"
    cache.write_bytes(image_bytes("clean"))
    backing.write_bytes(backing_bytes("clean"))
    return cache, backing


def on_terminal(*arguments: object) -> str:
    """What a verb shows on a terminal, with nodes that are slow to read."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-c", MAIN, *map(str, arguments)]
    with subprocess.Popen(command, stdin=theirs, stdout=subprocess.DEVNULL, stderr=theirs) as program:
        os.close(theirs)
        shown = b"".join(_until_closed(ours))
    os.close(ours)
    assert program.returncode == 0, shown
    return shown.decode()


def _until_closed(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            part = os.read(terminal, 1 << 16)
        except OSError:
            return
        if not part:
            return
        yield part


@pytest.mark.parametrize("verb", ["check", "rescue", "view", "repair", "clone", "warm", "resize"])
def test_a_long_reading_is_counted(verb: str, paths: tuple[Path, Path], tmp_path: Path) -> None:
    cache, backing = paths
    (tmp_path / "ranges").write_text("0 8\n")
    arguments = {
        "check": (cache,),
        "rescue": ("-n", cache, "--backing", backing),
        "view": ("--dm-table", cache, "--backing", backing),
        "repair": ("-n", cache),
        "clone": ("-n", cache, tmp_path / "new.img"),
        "warm": ("-n", cache, "--backing", backing, "--ranges", tmp_path / "ranges"),
        "resize": ("-n", cache, "31M"),
    }[verb]
    shown = on_terminal(verb, *arguments)
    assert "\r1 nodes of the index read  \r2 nodes of the index read  \r3 nodes of the index read" in shown


def test_a_short_reading_and_one_without_a_terminal_show_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with reading_line(iter(range(0, 100, 10)).__next__) as node_read:
        node_read()
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with reading_line(lambda: 0.0) as node_read, progress_line(8, "written"):
        node_read()
    assert capsys.readouterr().err == ""
