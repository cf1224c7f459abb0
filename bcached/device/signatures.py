# SPDX-License-Identifier: GPL-2.0-only
"""Signatures on a device, as libblkid finds them: file systems, partition tables, RAID members, bcache.

libblkid is called directly, since it reports the offset of each signature; where it is missing, the blkid
program is run, which reports only names.
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from bcached.errors import DeviceError, DeviceRefused, reason

LIBRARY = "libblkid.so.1"
PROGRAM = "blkid"
PROGRAM_FOUND, PROGRAM_NOTHING, PROGRAM_AMBIVALENT = 0, 2, 8
PROGRAM_TIMEOUT_S = 30

# <blkid/blkid.h>
BLKID_SUBLKS_TYPE = 1 << 5
BLKID_SUBLKS_MAGIC = 1 << 9
BLKID_SUBLKS_BADCSUM = 1 << 10
BLKID_PARTS_FORCE_GPT = 1 << 1
BLKID_PARTS_MAGIC = 1 << 3
CHAINS = (("TYPE", "SBMAGIC"), ("PTTYPE", "PTMAGIC"))


@dataclass(frozen=True, slots=True)
class Signature:
    """The type of a file system, table or member on a device, and the location of its magic bytes."""

    name: str
    offset: int | None = None  # of the magic bytes; None if only the blkid program was available
    length: int = 0

    def __str__(self) -> str:
        return self.name if self.offset is None else f"{self.name} at byte {self.offset}"


def find_signatures(path: str) -> tuple[Signature, ...]:
    """Returns all signatures on a device in the order found; DeviceRefused if neither tool is installed."""
    try:
        library = ctypes.CDLL(LIBRARY, use_errno=True)
    except OSError:
        return _ask_program(path)
    return tuple(_probe(_declared(library), path))


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    """Returns the library with the types of its functions declared."""
    probe = ctypes.c_void_p
    library.blkid_new_probe_from_filename.restype = probe
    library.blkid_new_probe_from_filename.argtypes = [ctypes.c_char_p]
    library.blkid_free_probe.argtypes = [probe]
    library.blkid_free_probe.restype = None
    library.blkid_do_probe.argtypes = [probe]
    for chain in ("superblocks", "partitions"):
        getattr(library, f"blkid_probe_enable_{chain}").argtypes = [probe, ctypes.c_int]
        getattr(library, f"blkid_probe_set_{chain}_flags").argtypes = [probe, ctypes.c_int]
    library.blkid_probe_lookup_value.argtypes = [
        probe,
        ctypes.c_char_p,
        ctypes.POINTER(ctypes.c_char_p),
        ctypes.POINTER(ctypes.c_size_t),
    ]
    return library


def _probe(library: ctypes.CDLL, path: str) -> Iterator[Signature]:
    probe = library.blkid_new_probe_from_filename(os.fsencode(path))
    if not probe:
        raise DeviceError(path, f"cannot look for signatures: {os.strerror(ctypes.get_errno())}")
    try:
        library.blkid_probe_enable_superblocks(probe, 1)
        library.blkid_probe_set_superblocks_flags(
            probe, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_MAGIC | BLKID_SUBLKS_BADCSUM
        )
        library.blkid_probe_enable_partitions(probe, 1)
        library.blkid_probe_set_partitions_flags(probe, BLKID_PARTS_MAGIC | BLKID_PARTS_FORCE_GPT)
        while (result := library.blkid_do_probe(probe)) == 0:
            yield _signature(library, probe)
        if result < 0:
            raise DeviceError(path, "cannot look for signatures: libblkid could not read it")
    finally:
        library.blkid_free_probe(probe)


def _signature(library: ctypes.CDLL, probe: int) -> Signature:
    """Returns the signature that the last step of the probing found."""
    for type_name, magic_name in CHAINS:
        name = _value(library, probe, type_name)
        if name is None:
            continue
        magic = _value(library, probe, magic_name)
        offset = _value(library, probe, f"{magic_name}_OFFSET")
        if magic is None or offset is None:
            return Signature(name.decode())
        return Signature(name.decode(), int(offset), len(magic))
    return Signature("an unnamed signature")


def _value(library: ctypes.CDLL, probe: int, name: str) -> bytes | None:
    """Returns a value of the signature found: text without its trailing NUL, or raw magic bytes."""
    data, length = ctypes.c_char_p(), ctypes.c_size_t()
    if library.blkid_probe_lookup_value(probe, name.encode(), ctypes.byref(data), ctypes.byref(length)) != 0:
        return None
    raw = ctypes.string_at(data, length.value)
    return raw if name.endswith("MAGIC") else raw.rstrip(b"\0")


def _ask_program(path: str) -> tuple[Signature, ...]:
    program = shutil.which(PROGRAM) or shutil.which(PROGRAM, path="/usr/sbin:/sbin")
    if program is None:
        raise DeviceRefused(path, f"cannot look for signatures: neither {LIBRARY} nor {PROGRAM} is installed")
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))  # blkid reports no signature if it cannot read
    except OSError as error:
        raise DeviceError(path, f"cannot look for signatures: {reason(error)}") from None
    command = [program, "-p", "-o", "export", path]
    # The path comes from the user of this program, and is passed unchanged, without a shell.
    done = subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, timeout=PROGRAM_TIMEOUT_S, check=False
    )
    if done.returncode == PROGRAM_NOTHING:
        return ()
    if done.returncode == PROGRAM_AMBIVALENT:
        return (Signature("several signatures at once"),)
    if done.returncode != PROGRAM_FOUND:
        raise DeviceError(path, f"cannot look for signatures: blkid reports {done.stderr.strip()!r}")
    values = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    return tuple(Signature(values[name]) for name, _ in CHAINS if name in values)
