# SPDX-License-Identifier: GPL-2.0-only
"""Text files that a user names: read if they have an end, and refused if not."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from bcached.cli.main import bcachectl
from bcached.device.text_file import TEXT_BYTES_MAX, text_lines
from bcached.errors import DeviceRefused


def test_a_file_and_a_pipe_of_the_shell_are_read(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"one\ntwo\xff\n")
    assert text_lines(str(tmp_path / "text")) == ["one", "two\ufffd"]
    (tmp_path / "text").write_text("# of a\x0bfile\u2028\r\n\n0 +\n")
    assert text_lines(str(tmp_path / "text")) == ["# of a\x0bfile\u2028\r", "", "0 +"]
    reader, writer = os.pipe()
    os.write(writer, b"one\ntwo")
    os.close(writer)
    try:
        assert text_lines(f"/dev/fd/{reader}") == ["one", "two"]
    finally:
        os.close(reader)


def test_what_has_no_end_or_only_waits_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, kind in (
        (tmp_path / "fifo", "fifo"),
        (tmp_path, "directory"),
        ("/dev/zero", "character device"),
    ):
        with pytest.raises(DeviceRefused, match=f"expected a file, found a {kind}"):
            text_lines(str(path))
        for arguments in (["repair", "--restore"], ["warm", "x", "--backing", "y", "--ranges"]):
            done = CliRunner().invoke(bcachectl, [*arguments, str(path)])
            assert (done.exit_code in (1, 8), f"found a {kind}" in done.stderr) == (True, True), done.output


def test_what_is_no_range_is_said_in_one_short_line(tmp_path: Path) -> None:
    for text in (b"\0" * 5000, b"1" * 5000 + b" 2", b"1 2 3", b"x 2"):
        (tmp_path / "ranges").write_bytes(text)
        done = CliRunner().invoke(
            bcachectl, ["warm", "x", "--backing", "y", "--ranges", str(tmp_path / "ranges")]
        )
        assert (done.exit_code, "ranges, line 1" in done.stderr) == (2, True), done.output
        assert len(done.stderr) < 400


def test_a_device_image_is_not_read_whole_as_text(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.touch()
    os.truncate(image, TEXT_BYTES_MAX)
    assert len(text_lines(str(image))) == 1
    os.truncate(image, TEXT_BYTES_MAX + 1)
    with pytest.raises(DeviceRefused, match="at most 64M"):
        text_lines(str(image))
