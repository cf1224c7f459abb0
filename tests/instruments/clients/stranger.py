# SPDX-License-Identifier: GPL-2.0-only
"""A process of its own that holds a lock on a file: as root of another user, else of ours."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NOBODY = 65534
PROGRAM = """if True:
    import fcntl, os, sys, time
    from array import array
    descriptor, how, name, user, effective, leaves = sys.argv[1:]
    open("/proc/self/comm", "w").write(name)
    if int(user) != os.geteuid():
        os.setgroups([])
        os.setresgid(int(user), int(user), int(user))
        os.setresuid(int(user), int(effective), int(effective))
    if how.startswith("LOCK_"):
        fcntl.flock(int(descriptor), getattr(fcntl, how))
    elif how:
        lock = array("q", [getattr(fcntl, how), 0, 0, 0])  # the whole file
        fcntl.fcntl(int(descriptor), fcntl.F_OFD_SETLK, lock.tobytes())
    if leaves and os.fork():
        os._exit(0)
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def stranger(
    path: str | Path,
    how: str,
    *,
    flags: int = os.O_RDONLY,
    user: int | None = None,
    effective: int | None = None,
    name: str = "stray",
    leaves: bool = False,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has opened the file and locked it: LOCK_SH, LOCK_EX, F_RDLCK, F_WRLCK, or not at all.

    Its user is nobody, if that is for us to say. With leaves, the process that took the lock has ended, and a
    child of its holds it.
    """
    if user is None:
        user = NOBODY if os.geteuid() == 0 else os.geteuid()
    users = [str(user), str(user if effective is None else effective)]
    descriptor = os.open(path, flags)
    process = subprocess.Popen(
        [sys.executable, "-ISc", PROGRAM, str(descriptor), how, name, *users, "leaves" * leaves],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=[descriptor],
        start_new_session=True,
    )
    os.close(descriptor)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        if process.stdout.readline() != b"held\n":
            raise OSError(process.stderr.read().decode())
        if leaves:
            process.wait()
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        process.stderr.close()
