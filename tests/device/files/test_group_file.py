# SPDX-License-Identifier: GPL-2.0-only
"""Files for clients: their mode and group, what a sandbox may forbid, and which call a failure names."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bcached.device.files.group_file import GROUP_FILE_MODE, create_group_file
from instruments.clients import seccomp

ANOTHER_GROUP = 1  # daemon's, on every Linux


def test_a_new_file_has_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    path = str(tmp_path / "gens")
    mask = os.umask(0o777)
    try:
        os.close(create_group_file(path, os.O_RDWR, os.getegid()))
    finally:
        os.umask(mask)
    assert stat.S_IMODE(os.stat(path).st_mode) == GROUP_FILE_MODE


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: another group")
def test_a_new_file_is_given_to_the_group(tmp_path: Path) -> None:
    path = str(tmp_path / "gens")
    os.close(create_group_file(path, os.O_RDWR, ANOTHER_GROUP))
    assert os.stat(path).st_gid == ANOTHER_GROUP


def test_what_stands_there_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "gens"
    path.write_text("another's")
    with pytest.raises(FileExistsError):
        create_group_file(str(path), os.O_RDWR, None)
    assert path.read_text() == "another's"


MAKE_THE_MAP = "from bcached.device.files.mapped_file import MappedFile; MappedFile(path, 4096, gid)"
MAKE_THE_LEASE = (
    "from bcached.device.claims.lease_file import create_lease; create_lease(path, 'set', 1, 'boot', gid)"
)
MAKE_THE_IMAGE = "from bcached.device.image_file import create_image; create_image(path, 1 << 20)"
OPEN_THE_IMAGE = (
    "from bcached.device.opening import Opening;"
    "Opening(path, writable=True, exclusive=True, direct=True).attempt()"
)
LISTEN = "from bcached.service.listening import bind_unix; bind_unix(path, 0o660, '')"


def refused(what: str, call: str, folder: Path, path: Path, gid: int) -> str:
    """What a program says that may not make a system call."""
    if missing := seccomp.why_not():
        pytest.skip(missing)
    every = seccomp.expanded(["@known"] if "@known" in seccomp.sets() else ["@system-service", "@chown"])
    begin = seccomp.behind(every - {call, f"{call}at", f"{call}2"}, folder)
    program = f"""if True:
        from bcached.errors import BcachedError
        path, gid = {str(path)!r}, {gid}
        try:
            {what}
        except BcachedError as error:
            print(error)
    """
    done = subprocess.run([*begin, sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr == ""
    return done.stdout.rstrip("\n")


@pytest.mark.parametrize(
    ("what", "call", "named"),
    [
        (MAKE_THE_MAP, "fchmod", "cannot map it: fchmod"),
        (MAKE_THE_MAP, "fallocate", "cannot map it: posix_fallocate"),
        (MAKE_THE_MAP, "rename", "cannot map it: rename"),
        (MAKE_THE_LEASE, "fchmod", "cannot make the lease file: fchmod"),
        (MAKE_THE_LEASE, "fsync", "cannot make the lease file: fsync"),
        (MAKE_THE_IMAGE, "ftruncate", "cannot make it 1048576 bytes long"),
        (MAKE_THE_IMAGE, "flock", "cannot make it 1048576 bytes long: flock"),
        (MAKE_THE_IMAGE, "fsync", "cannot make it 1048576 bytes long: fsync"),
        (OPEN_THE_IMAGE, "flock", "cannot open it: flock"),
        (OPEN_THE_IMAGE, "lseek", "cannot open it: lseek"),
        (LISTEN, "bind", "cannot listen: bind"),
        (LISTEN, "chmod", "cannot listen: chmod"),
        (LISTEN, "listen", "cannot listen: listen"),
    ],
)
def test_a_failure_names_the_call_and_the_path(what: str, call: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "place"
    if what == MAKE_THE_LEASE:
        path.mkdir()
    elif what == OPEN_THE_IMAGE:
        path.write_bytes(bytes(1 << 20))
    told = refused(what, call, tmp_path, path, os.getegid())
    assert re.fullmatch(rf"{path}\S*: {named}: Operation not permitted", told)
    assert what != MAKE_THE_LEASE or list(path.iterdir()) == [], "nothing half made is left"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: another group")
@pytest.mark.parametrize(
    ("what", "doing"), [(MAKE_THE_MAP, "map it"), (MAKE_THE_LEASE, "make the lease file")]
)
def test_a_group_that_may_not_be_given_is_told(what: str, doing: str, tmp_path: Path) -> None:
    path = tmp_path / "place"
    if what == MAKE_THE_LEASE:
        path.mkdir()
    told = refused(what, "fchown", tmp_path, path, ANOTHER_GROUP)
    assert f": cannot {doing}: fchown: Operation not permitted; the daemon's user must be" in told
