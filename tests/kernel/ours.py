# SPDX-License-Identifier: GPL-2.0-only
"""The claims: what bcached made, used or left behind is as good to the kernel as the kernel's own."""

import hashlib
import re
import subprocess
from functools import partial
from pathlib import Path

from bcached.wire.admin_messages import Policy

from .daemon import DaemonFailed, make_image, serving
from .judge import judge
from .lab import Case, Lab, Outcome
from .scenario import Volume
from .workload import work_and_kill

# Bytes of bucket and block, and an image's size: more than 512 buckets, which the kernel asks for.
SHAPES = {
    f"{bucket} {block}": (bucket_bytes, block_bytes, size_mib << 20)
    for bucket, bucket_bytes, size_mib in (
        ("4k", 4 << 10, 8),
        ("64k", 64 << 10, 64),
        ("512k", 512 << 10, 512),
        ("4M", 4 << 20, 4096),
    )
    for block, block_bytes in (("512", 512), ("4k", 4096))
}
USUAL = SHAPES["64k 512"]


def made(lab: Lab, name: str, shape: tuple[int, int, int] = USUAL, *options: str) -> Path:
    """An image from bcachectl make."""
    path = lab.path(name.replace(" ", "-"))
    path.unlink(missing_ok=True)
    bucket_bytes, block_bytes, size_bytes = shape
    make_image(path, size_bytes, bucket_bytes, block_bytes, *options)
    return path


def fresh(lab: Lab, shape: tuple[int, int, int]) -> Outcome:
    """The image as bcachectl made it."""
    return Outcome.of(judge(lab.machine, made(lab, "fresh", shape), may_be_fresh=True))


def first_run(lab: Lab, shape: tuple[int, int, int]) -> Outcome:
    """The image after the daemon's first run, cleanly stopped."""
    path = made(lab, "first", shape)
    with serving(path) as daemon:
        daemon.stop()
    return Outcome.of(judge(lab.machine, path))


def killed_at_once(lab: Lab) -> Outcome:
    """The daemon is killed as soon as it serves."""
    path = made(lab, "killed")
    with serving(path) as daemon:
        daemon.kill()
    return Outcome.of(judge(lab.machine, path))


def worked(lab: Lab, policy: Policy, allocations: int, *options: str) -> Outcome:
    """Many allocations and prio writes, kill -9, the kernel, the daemon again, and the kernel again."""
    path = made(lab, f"worked-{policy}", USUAL, *options)
    work = work_and_kill(path, allocations, seed=allocations, policy=policy)
    complaints = tools_complain(lab, path)
    used = judge(lab.machine, path, keep_writes=True)
    open_again(path)
    outcome = Outcome.of(used, judge(lab.machine, path))
    note = f"{work.allocations} allocations, {work.sectors >> 11} MiB, {work.prio_writes} prio writes"
    return Outcome(complaints + outcome.complaints, {**outcome.facts, "note": note}, outcome.log)


def volumes(lab: Lab) -> Outcome:
    """Flash-only volumes, one of them deleted again, appear as the devices they are and hold zeros."""
    path, sizes = made(lab, "volumes"), [8 << 20, 1 << 20]
    with serving(path) as daemon:
        with daemon.client() as client:
            gone = client.create_volume("gone", sectors=2048)
            for size_bytes in sizes:
                client.create_volume(f"of {size_bytes}", sectors=size_bytes // 512)
            client.delete_volume(gone)
        daemon.kill()
    wanted = [Volume(f"bcache{place}", size_bytes) for place, size_bytes in enumerate(sizes)]
    verdict = judge(lab.machine, path, volumes=wanted)
    outcome = Outcome.of(verdict)
    for volume in wanted:
        zeros = hashlib.sha256(bytes(volume.size_bytes)).hexdigest()
        if verdict.facts.get(f"sha256_{volume.device}") != zeros:
            outcome = Outcome(
                (*outcome.complaints, f"{volume.device} is not zeros"), outcome.facts, outcome.log
            )
    return outcome


def to_and_fro(lab: Lab, cut: bool) -> Outcome:
    """Kernel and daemon take turns with one image; neither minds what the other left."""
    path = made(lab, "turns")
    first = judge(lab.machine, path, may_be_fresh=True, keep_writes=True, cut=cut)
    open_again(path)
    second = judge(lab.machine, path, keep_writes=True, cut=cut)
    open_again(path)
    return Outcome.of(first, second, judge(lab.machine, path))


def open_again(path: Path) -> None:
    """bcached opens the image, finds nothing wrong in it, works on it and stops."""
    with serving(path) as daemon:
        with daemon.client() as client:
            violations = client.verify()
            if violations:
                raise DaemonFailed(f"verify after opening: {violations}")
            volume = client.create_volume("again")
            for place in range(1000):
                client.release(client.allocate(volume, 128 * place, 128))
            client.write_priorities()
        daemon.stop()


def tools_complain(lab: Lab, path: Path) -> tuple[str, ...]:
    """What bcache's own tool and blkid find wrong with the superblock."""
    shown = subprocess.run([str(lab.super_show_tool), str(path)], capture_output=True, text=True)
    probed = subprocess.run(
        ["blkid", "-p", "-o", "value", "-s", "TYPE", str(path)], capture_output=True, text=True
    )
    complaints = []
    if shown.returncode != 0 or not re.search(r"sb\.magic\s+ok\n(.*\n)*sb\.csum.*\[match\]", shown.stdout):
        complaints.append(f"bcache-super-show: {shown.stdout} {shown.stderr}")
    if probed.stdout.strip() != "bcache":
        complaints.append(f"blkid says {probed.stdout.strip() or 'nothing'}")
    return tuple(complaints)


FRESH = "the kernel accepts an image that bcachectl made"
FIRST = "the kernel accepts an image after the daemon's first run"
WORKED = "the kernel accepts an image after {:,} allocations by {} and kill -9, and so do both again"

OURS = (
    *(Case(f"fresh {name}", FRESH, partial(fresh, shape=shape)) for name, shape in SHAPES.items()),
    *(Case(f"first-run {name}", FIRST, partial(first_run, shape=shape)) for name, shape in SHAPES.items()),
    Case("killed", "the kernel accepts an image whose daemon was killed at once", killed_at_once),
    Case("worked lru", WORKED.format(100_000, "lru"), lambda lab: worked(lab, "lru", 100_000, "--discard")),
    Case("worked fifo", WORKED.format(10_000, "fifo"), lambda lab: worked(lab, "fifo", 10_000)),
    Case("worked random", WORKED.format(10_000, "random"), lambda lab: worked(lab, "random", 10_000)),
    Case("volumes", "flash-only volumes appear in the kernel with their size", volumes),
    Case("turns stopped", "kernel and daemon open each other's images", partial(to_and_fro, cut=False)),
    Case("turns cut", "they do so when the kernel was cut off", partial(to_and_fro, cut=True)),
)
