# SPDX-License-Identifier: GPL-2.0-only
"""A unit's seccomp filter without a service manager: systemd says what its groups hold, libseccomp loads it.

As a program, `python -m instruments.clients.seccomp ACTION FILE COMMAND...`, it runs the command behind a
filter that allows the calls named in the file.
"""

import ctypes
import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path

LIBRARY = "libseccomp.so.2"
TESTS = Path(__file__).parents[2]

# <seccomp.h>
ALLOW = 0x7FFF0000
KILL_PROCESS = 0x80000000
DENY = 0x00050000 | errno.EPERM
CMP_MASKED_EQ = 7

PROT_WRITE, PROT_EXEC = 2, 4


class Comparison(ctypes.Structure):
    """struct scmp_arg_cmp: argument & mask == value."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("mask", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
    )


# MemoryDenyWriteExecute=: nothing is mapped to be written and run, nothing is made to be run later.
NEVER_WRITE_AND_EXECUTE = {
    "mmap": [(2, PROT_WRITE), (2, PROT_EXEC)],
    "mprotect": [(2, PROT_EXEC)],
    "pkey_mprotect": [(2, PROT_EXEC)],
}


def why_not() -> str | None:
    """What is missing here, if anything is."""
    if shutil.which("systemd-analyze") is None:
        return "systemd-analyze is not installed"
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return f"{LIBRARY} is not installed"
    return None


@cache
def sets() -> dict[str, tuple[str, ...]]:
    """systemd's groups of system calls, as the systemd that is installed knows them."""
    told = subprocess.run(["systemd-analyze", "syscall-filter"], capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = {}
    for line in told.stdout.splitlines():
        if match := re.match(r"(@[\w-]+)$", line):
            found[match[1]] = names = []
        elif match := re.match(r"    (@?[\w-]+)$", line):
            names.append(match[1])
        elif line.startswith("# "):  # calls of the kernel that systemd has in no group
            break
    return {name: tuple(names) for name, names in found.items()}


def expanded(names: Iterable[str]) -> set[str]:
    """The calls, groups replaced by what they hold."""
    calls: set[str] = set()
    for name in names:
        calls |= expanded(sets()[name]) if name.startswith("@") else {name}
    return calls


def allowed_by(lines: Iterable[str]) -> set[str]:
    """What a unit's SystemCallFilter= lines allow, in their order; the first must say what is allowed."""
    allowed: set[str] = set()
    for number, line in enumerate(lines):
        assert number > 0 or not line.startswith("~")
        if line.startswith("~"):
            allowed -= expanded(line.removeprefix("~").split())
        else:
            allowed |= expanded(line.split())
    return allowed | expanded(["@default"])


def behind(allowed: Collection[str], folder: Path, action: int = DENY) -> list[str]:
    """What to put before a command, to run it with all other calls denied."""
    names = folder / "allowed"
    names.write_text("\n".join(sorted(allowed)))
    return [
        "env",
        "--unset=COVERAGE_PROCESS_CONFIG",  # what measures coverage makes calls of its own
        f"PYTHONPATH={TESTS}",
        sys.executable,
        "-m",
        "instruments.clients.seccomp",
        str(action),
        str(names),
    ]


def load_filter(allowed: Collection[str], action: int) -> None:
    """Put this process, and all that it will run, behind the filter."""
    library = ctypes.CDLL(LIBRARY, use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_load.argtypes = [ctypes.c_void_p]
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(Comparison),
    ]
    context = library.seccomp_init(action)
    for name in allowed:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:  # of another architecture, or of a later kernel
            continue
        for argument, mask in NEVER_WRITE_AND_EXECUTE.get(name, [(0, 0)]):
            comparison = Comparison(argument, CMP_MASKED_EQ, mask, 0)
            done = library.seccomp_rule_add_array(context, ALLOW, number, int(mask > 0), comparison)
            assert done == 0, (name, os.strerror(-done))
    done = library.seccomp_load(context)
    assert done == 0, os.strerror(-done)


if __name__ == "__main__":
    load_filter(Path(sys.argv[2]).read_text().split(), int(sys.argv[1]))
    os.environ.pop("PYTHONPATH")
    os.execvp(sys.argv[3], sys.argv[3:])
