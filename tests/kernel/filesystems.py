# SPDX-License-Identifier: GPL-2.0-only
"""The claims about `bcachectl view`: a file system that is dirty in the cache is whole in the export."""

import hashlib
import io
import json
import os
import random
import signal
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from . import images
from .daemon import program
from .guest_programs import programs
from .lab import Case, Lab, Outcome, Skipped
from .machine import Handover
from .modules import load_order
from .ours import made
from .packages import cache_folder
from .qemu import Disk
from .verdicts import complaints_about

TOOLS = {
    "mkfs.ext4": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "e2fsck": "e2fsprogs",
    "xfs_repair": "xfsprogs",
    "qemu-img": "qemu-utils",
    "qemu-io": "qemu-utils",
    "nbdkit": "nbdkit",
}
CACHE_SHAPE = (64 << 10, 512, 256 << 20)
FILES, FILE_BYTES_MAX = 60, 120_000
MODULES = ("crc32c_generic", "ext4", "xfs")


@dataclass(frozen=True, slots=True)
class FileSystem:
    """How one is made, and judged."""

    name: str
    size_bytes: int
    make: str
    check: tuple[str, ...]
    is_sound_when_cut: bool  # ext4 may have extents behind the end of a file that was being written


# xfsprogs want 300 MiB, but for their own tests, which the three variables stand for.
XFS_SMALL = "TEST_DIR=1 TEST_DEV=1 QA_CHECK_FS=1"
FILE_SYSTEMS = (
    FileSystem(
        "ext4",
        48 << 20,
        "/host/mkfs.ext4 -q -F -E nodiscard",
        ("e2fsck", "-f", "-n"),
        is_sound_when_cut=False,
    ),
    FileSystem(
        "xfs",
        64 << 20,
        f"{XFS_SMALL} /host/mkfs.xfs -q -f -K -l size=8m",
        ("xfs_repair", "-n"),
        is_sound_when_cut=True,
    ),
)


@dataclass(frozen=True, slots=True)
class Mixed:
    """A cache and its backing devices; the hashes of the files that were written through the kernel."""

    cache: Path
    backings: dict[str, Path]
    files: dict[str, str]

    def digests(self) -> list[str]:
        """The hashes of all devices."""
        return [file_digest(path) for path in (self.cache, *self.backings.values())]


_written: dict[tuple[Path, bool], tuple[Mixed, list[str]]] = {}


def file_digest(path: Path) -> str:
    """The hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def payload(seed: int) -> bytes:
    """An archive of files of all sizes, in folders."""
    rng, packed = random.Random(seed), io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for number in range(FILES):
            data = rng.randbytes(rng.randrange(FILE_BYTES_MAX) if number % 4 else rng.randrange(200))
            item = tarfile.TarInfo(f"folder-{number % 7}/{number % 3}/file-{number}")
            item.size = len(data)
            archive.addfile(item, io.BytesIO(data))
    return packed.getvalue()


def work_on(fs: FileSystem, device: str, *, cut: bool) -> str:
    """The part of a scenario that makes a file system and works in it, cut off in mid-work or not."""
    mount = f"/mnt/{fs.name}"
    lines = [
        f"{fs.make} /dev/{device} || fail 'no {fs.name} could be made'",
        f"mounted {fs.name} /dev/{device} rw",
        f"tar -x -f /payload -C {mount}",
        "sync",
        f"rm -r {mount}/folder-1; mv {mount}/folder-2 {mount}/renamed",
        f"dd if=/payload of={mount}/folder-3/0/file-3 bs=1000 seek=7 count=40 conv=notrunc 2> /dev/null",
        f"cp -r {mount}/folder-4 {mount}/copy; mkdir {mount}/under-way",
        "sync",
        f"note_files {fs.name}",
        f"fact dirty_{fs.name} $(cat /sys/block/{device}/bcache/dirty_data)",
    ]
    under_way = (
        f"( while cp /payload {mount}/under-way/1; do mv {mount}/under-way/1 {mount}/under-way/2; done ) &"
    )
    return "\n".join([*lines, under_way if cut else f"umount {mount}"]) + "\n"


def mixed_devices(lab: Lab, *, cut: bool) -> tuple[Mixed, list[str]]:
    """Those that the cases of a run share."""
    if (lab.folder, cut) not in _written:
        _written[lab.folder, cut] = written(lab, cut=cut)
    mixed, complaints = _written[lab.folder, cut]
    return mixed, list(complaints)


def written(lab: Lab, *, cut: bool) -> tuple[Mixed, list[str]]:
    """A cache with two file systems in it, and what the kernel had to complain of."""
    name = "view-cut" if cut else "view-stopped"
    cache = made(lab, name, CACHE_SHAPE)
    backings = {
        fs.name: images.make_backing(
            cache.with_suffix(f".{fs.name}"),
            bytes(fs.size_bytes),
            bytes([7] * 15 + [number]),
            cache,
            attached=False,
        )
        for number, fs in enumerate(FILE_SYSTEMS)
    }
    scenario = "more_modules\nregister cache || return 0\n"
    for number, fs in enumerate(FILE_SYSTEMS):
        scenario += f"attach_new {fs.name} bcache{number}\n" + work_on(fs, f"bcache{number}", cut=cut)
    scenario += "sync\nsleep 1\n" if cut else "stop_set\n"
    disks = [Disk("cache", cache, True), *(Disk(fs, path, True) for fs, path in backings.items())]
    handover = lab.machine.boot(scenario, disks, {**guest_files(lab), "payload": payload(len(name))})
    files = {fs.name: handover.text(f"files.{fs.name}") for fs in FILE_SYSTEMS}
    told = [f"{fs} {handover.facts.get(f'dirty_{fs}')} dirty" for fs in backings]
    print(f"     {', '.join(told)}", flush=True)
    return Mixed(cache, backings, files), complaints_about(handover, may_be_fresh=True)


def guest_files(lab: Lab) -> dict[str, bytes]:
    """Modules and programs that the guest needs for file systems."""
    modules = load_order(cache_folder(lab.machine.series) / "root", MODULES)
    tools = programs(["mkfs.ext4", "mkfs.xfs"], TOOLS)
    return {f"more/{n:02}-{name}.ko": data for n, (name, data) in enumerate(modules.items())} | tools


@contextmanager
def viewed(mixed: Mixed, fs: str, *options: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """The URI of the export of one of its file systems, and the process."""
    command = [program("bcachectl"), "--json", "view", *options, str(mixed.cache), "--backing"]
    with subprocess.Popen(
        [*command, str(mixed.backings[fs])], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as view:
        assert view.stdout is not None
        text = ""
        while not text.endswith("}\n"):
            line = view.stdout.readline()
            assert line, "it ended"
            text += line
        try:
            yield json.loads(text)["uri"], view
        finally:
            view.terminate()


def judged(lab: Lab, *, cut: bool) -> Outcome:
    """Both file systems are made, used and left; then checked and compared, as the exports show them."""
    refuse_without_plugin()
    mixed, complaints = mixed_devices(lab, cut=cut)
    before = mixed.digests()
    options = ["--cow"] if cut else []
    with viewed(mixed, "ext4", *options) as (ext4, _), viewed(mixed, "xfs", *options) as (xfs, _):
        uris = {"ext4": ext4, "xfs": xfs}
        # What was cut off is sound once the mounts have replayed the logs, into what is kept apart.
        to_check = [fs for fs in FILE_SYSTEMS if fs.is_sound_when_cut or not cut]
        handover = mount_all(lab, mixed, uris, writable=cut)
        complaints += complaints_about(handover)
        complaints += [wrong for fs in to_check for wrong in checked(lab, fs, uris[fs.name])]
    for fs, files in mixed.files.items():
        if not files or handover.text(f"files.{fs}") != files:
            complaints.append(f"{fs}: the files of the export are not those that were written")
    if mixed.digests() != before:
        complaints.append("view has changed a device")
    note = f"{sum(files.count(chr(10)) for files in mixed.files.values())} files compared"
    return Outcome(tuple(complaints), {"note": note}, handover.console if complaints else "")


def mount_all(lab: Lab, mixed: Mixed, uris: dict[str, str], *, writable: bool) -> Handover:
    """Compare the exports with what the kernel reads, mount them, and hand over the hashes of all files."""
    scenario = "more_modules\nregister cache || return 0\n"
    for number, fs in enumerate(uris):
        scenario += f"attach {fs} bcache{number}\n"
        scenario += f"cmp /dev/bcache{number} /dev/named/export-{fs} || fail 'the export of {fs} differs'\n"
    scenario += "stop_set\n"
    for fs in uris:
        scenario += f"mounted {fs} /dev/named/export-{fs} {'rw' if writable else 'ro'}\n"
        scenario += f"note_files {fs}\numount /mnt/{fs}\n"
    disks = [Disk("cache", mixed.cache), *(Disk(fs, path) for fs, path in mixed.backings.items())]
    disks += [Disk(f"export-{fs}", uri, keep_writes=writable) for fs, uri in uris.items()]
    return lab.machine.boot(scenario, disks, guest_files(lab))


def checked(lab: Lab, fs: FileSystem, uri: str) -> list[str]:
    """What fsck finds in a copy of the export."""
    copy = lab.path(f"export-{fs.name}")
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "raw", uri, str(copy)], check=True)
    done = subprocess.run([*fs.check, str(copy)], capture_output=True, text=True)
    return [f"{' '.join(fs.check)}: {done.stdout[-300:]}{done.stderr[-300:]}"] if done.returncode else []


def refuse_without_plugin() -> None:
    """Raise Skipped if nbdkit has no Python here."""
    if subprocess.run(["nbdkit", "--dump-plugin", "python"], capture_output=True).returncode:
        raise Skipped("needs nbdkit-plugin-python")


def killed(lab: Lab) -> Outcome:
    """nbdkit is killed idle, in reads and in writes: both devices stay as they are."""
    refuse_without_plugin()
    mixed, complaints = mixed_devices(lab, cut=True)
    before = mixed.digests()
    kills = 0
    for commands in ((), ("read 0 32M",), ("write -P 7 0 16M",), ("write -P 7 1M 64k", "flush", "read 0 8M")):
        for waits in (0, 1):
            with viewed(mixed, "ext4", "--cow") as (uri, view):
                kill_in_work(view, uri, commands, waits)
                if view.wait(60) != 1:
                    complaints.append(f"view ended with {view.returncode} after nbdkit was killed")
            kills += 1
            if mixed.digests() != before:
                return Outcome((*complaints, f"killed at {commands!r}, it has changed a device"))
    return Outcome(tuple(complaints), {"note": f"{kills} kills"})


def kill_in_work(view: "subprocess.Popen[str]", uri: str, commands: Sequence[str], waits: int) -> None:
    """Kill the engine of an export when a client has got so many answers and has asked for more."""
    (engine,) = Path(f"/proc/{view.pid}/task/{view.pid}/children").read_text().split()
    asked = [word for command in ("length", *commands, *commands) for word in ("-c", command)]
    command = ["stdbuf", "-oL", "qemu-io", "-f", "raw", *asked, uri]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as client:
        assert client.stdout is not None
        for _ in range(1 + waits):
            client.stdout.readline()
        os.kill(int(engine), signal.SIGKILL)
        client.kill()


VIEWS = (
    Case(
        "view stopped",
        "ext4 and xfs, dirty in the cache, are whole in the export, and their files are right",
        partial(judged, cut=False),
    ),
    Case(
        "view cut",
        "so they are when the kernel was cut off in mid-work, once they are mounted",
        partial(judged, cut=True),
    ),
    Case("view killed", "nbdkit killed at any time leaves both devices as they are", killed),
)
