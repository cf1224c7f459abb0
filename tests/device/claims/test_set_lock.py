# SPDX-License-Identifier: GPL-2.0-only
"""The lock on a set's files: one process a set and directory, and no file left behind."""

import os
import stat
from pathlib import Path

import pytest

from bcached.device.claims.set_lock import SetLock
from bcached.errors import DeviceError, SetRefused
from instruments.clients.stranger import NOBODY, stranger

UUID, OTHER = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"


def test_a_set_is_locked_in_every_directory_and_no_longer_than_held(tmp_path: Path) -> None:
    state, run = tmp_path / "state", tmp_path / "run"
    state.mkdir()
    run.mkdir()
    lock = SetLock(UUID, (str(state), str(run)))
    (path,) = run.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600, "or a client could hold it"
    with pytest.raises(
        SetRefused, match=rf"in use: process {os.getpid()} \(.*\) runs it, with its files in {run};"
    ):
        SetLock(UUID, (str(run), str(tmp_path)))
    SetLock(OTHER, (str(state), str(run))).release()
    lock.release()
    SetLock(UUID, (str(run), str(tmp_path))).release()
    assert [*state.iterdir(), *run.iterdir()] == []


def test_one_directory_by_two_names_is_locked_once(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    lock = SetLock(UUID, (str(tmp_path), f"{tmp_path}/", str(tmp_path / "link")))
    lock.release()


def test_what_a_killed_daemon_left_is_used_again_and_made_ours_alone(tmp_path: Path) -> None:
    path = tmp_path / f"{UUID}.lock"
    path.touch(0o666)
    lock = SetLock(UUID, (str(tmp_path),))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lock.release()


def test_a_lock_on_a_file_that_is_removed_meanwhile_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, opened = tmp_path / f"{UUID}.lock", os.open
    left = [1]

    def open_and_lose(*arguments: object) -> int:
        descriptor = opened(*arguments)  # type: ignore[arg-type]
        if left:
            left.pop()
            path.unlink()
        return descriptor

    monkeypatch.setattr(os, "open", open_and_lose)
    lock = SetLock(UUID, (str(tmp_path),))
    assert path.exists()
    lock.release()


@pytest.mark.root
def test_one_that_root_made_is_for_the_directorys_owner(tmp_path: Path) -> None:
    os.chown(tmp_path, NOBODY, NOBODY)
    lock = SetLock(UUID, (str(tmp_path),))
    (path,) = tmp_path.iterdir()
    assert path.stat().st_uid == NOBODY
    lock.release()


def test_a_holder_is_named(tmp_path: Path) -> None:
    path = tmp_path / f"{UUID}.lock"
    path.touch()
    with (
        stranger(path, "LOCK_EX", user=os.geteuid(), name="bcached") as holder,
        pytest.raises(SetRefused, match=rf"process {holder.pid} \(bcached, user "),
    ):
        SetLock(UUID, (str(tmp_path),))
    assert path.exists(), "it is the holder's"


def test_a_directory_in_which_nothing_can_be_made_is_an_error_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"cannot lock the set's files: .*No such file or directory"):
        SetLock(UUID, (str(tmp_path), str(tmp_path / "absent")))
    assert list(tmp_path.iterdir()) == []
