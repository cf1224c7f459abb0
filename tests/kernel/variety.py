# SPDX-License-Identifier: GPL-2.0-only
"""Sets of all kinds that the kernel alone makes and uses, several in one boot.

Each is then read by the kernel itself, in another boot, and that is what `rescue` has to leave on the backing
devices.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import images
from .images import SECTOR
from .lab import Lab
from .qemu import Disk

BACKING_BYTES = 3 << 20
FILL_BYTES = 1 << 20
WRITES = 40  # of a part of a history
HISTORIES = {
    "plain": "{changes}",
    # Detached and attached again, its data belongs to another volume.
    "attached again": "{changes}\nleave {name}\n{changes2}\njoin {disk} {name} {cache}\n{changes3}",
    "writethrough": "{changes}\necho writethrough > {knobs}/cache_mode\n{changes2}",
    "writearound": "{changes}\necho writearound > {knobs}/cache_mode\n{changes2}",
    # Some of what was dirty is clean, and dirty again.
    "written back": "{changes}\necho 0 > {knobs}/writeback_percent\necho 1 > {knobs}/writeback_running\n"
    "sleep 1\necho 0 > {knobs}/writeback_running\n{changes2}",
    "read": "dd if=/dev/{name} of=/dev/null bs=64k 2> /dev/null\n{changes}\n"
    "dd if=/dev/{name} of=/dev/null bs=64k 2> /dev/null\n{changes2}",
    "label": "{changes}\necho a label > {knobs}/label\n{changes2}",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """A set: sizes, the histories of its backing devices, how it ends."""

    bucket_bytes: int
    block_bytes: int
    buckets: int
    histories: Sequence[str]
    cut: bool = True  # in mid-work
    data_offset: int = images.DATA_OFFSET
    spare_bytes: int = 0  # behind the last bucket

    @property
    def name(self) -> str:
        """What it is called in reports."""
        sizes = f"{self.bucket_bytes >> 10}k/{self.block_bytes}"
        return f"{sizes} {'+'.join(self.histories)} {'cut' if self.cut else 'stopped'}"


# A batch is what one boot takes: at most 23 disks.
BATCHES: Sequence[Sequence[Sample]] = (
    (
        Sample(8 << 10, 1024, 1031, ["attached again"]),
        Sample(32 << 10, 512, 777, ["plain", "writethrough"], spare_bytes=20 << 10),
        Sample(256 << 10, 2048, 520, ["written back", "plain"], cut=False),
        Sample(16 << 10, 4096, 999, ["read"], data_offset=64),
        Sample(128 << 10, 512, 600, ["plain", "attached again", "writearound"]),
    ),
    (
        Sample(4 << 10, 512, 4099, ["plain"]),
        Sample(4 << 10, 1024, 3001, ["written back"], cut=False),
        Sample(8 << 10, 512, 2049, ["writethrough"]),
        Sample(8 << 10, 2048, 1500, ["plain", "read"], data_offset=24),
        Sample(8 << 10, 4096, 1100, ["attached again"], cut=False),
        Sample(16 << 10, 512, 513, ["written back"]),
        Sample(16 << 10, 2048, 801, ["label", "plain"], spare_bytes=12 << 10),
        Sample(32 << 10, 4096, 1201, ["attached again", "written back"]),
    ),
    (
        Sample(64 << 10, 1024, 651, ["writethrough"], data_offset=2048),
        Sample(64 << 10, 4096, 900, ["plain", "plain", "plain"]),
        Sample(128 << 10, 2048, 523, ["attached again"]),
        Sample(256 << 10, 512, 601, ["read"], cut=False),
        Sample(512 << 10, 1024, 555, ["written back"], data_offset=17 * 8),
        Sample(1 << 20, 4096, 540, ["plain", "writethrough"]),
        Sample(2 << 20, 512, 517, ["attached again"], spare_bytes=512 << 10),
    ),
)


@dataclass(slots=True)
class Placed:
    """A sample with its devices on this machine, and their names in the guest."""

    sample: Sample
    number: int
    cache: Path
    backings: Sequence[Path]
    first_device: int  # the number of its first block device

    @property
    def cache_disk(self) -> str:
        """The disk of its cache device."""
        return f"cache{self.number}"

    def parts(self) -> list[tuple[str, str, str]]:
        """Disk, block device and history of each volume."""
        return [
            (f"backing{self.first_device + place}", f"bcache{self.first_device + place}", history)
            for place, history in enumerate(self.sample.histories)
        ]

    def disks(self, *, keep_writes: bool) -> list[Disk]:
        """All of its devices."""
        block = self.sample.block_bytes
        backings = zip(self.parts(), self.backings, strict=True)
        return [
            Disk(self.cache_disk, self.cache, keep_writes, block),
            *(Disk(disk, path, keep_writes, block) for (disk, _, _), path in backings),
        ]


def placed(lab: Lab, batch: int) -> list[Placed]:
    """The devices of a batch as make-bcache leaves them, with old data on the backing devices."""
    found: list[Placed] = []
    first = 0
    for number, sample in enumerate(BATCHES[batch]):
        cache = lab.path(f"variety-{batch}-{number}")
        size = sample.bucket_bytes * sample.buckets + sample.spare_bytes
        images.make_bcache(lab.make_bcache_tool, cache, size, sample.bucket_bytes, sample.block_bytes)
        backings = [
            images.make_backing(
                cache.with_suffix(f".backing{place}"),
                random.Random(first + place).randbytes(BACKING_BYTES),
                bytes([batch + 1, first + place] * 8),
                cache,
                attached=False,
                data_offset=sample.data_offset,
            )
            for place in range(len(sample.histories))
        ]
        found.append(Placed(sample, number, cache, backings, first))
        first += len(backings)
    return found


def changes(rng: random.Random, block_sectors: int) -> str:
    """Lines for the guest's `changes`: whole blocks, anywhere."""
    blocks, source = (size // SECTOR // block_sectors for size in (BACKING_BYTES, FILL_BYTES))
    lines = []
    for _ in range(WRITES):
        count = rng.choice((1, 1, 2, 3, rng.randint(1, 60)))
        numbers = rng.randrange(source - count), rng.randrange(blocks - count), count
        lines.append(" ".join(str(number * block_sectors) for number in numbers))
    return "\n".join(lines) + "\n"


def history_of(one: Placed, place: int, rng: random.Random, files: dict[str, bytes]) -> str:
    """The part of the scenario for one volume; its lists are added to the files."""
    disk, name, history = one.parts()[place]
    words = {"disk": disk, "name": name, "cache": one.cache_disk, "knobs": f"/sys/block/{name}/bcache"}
    for part in ("changes", "changes2", "changes3", "under_way"):
        path = f"{part}.{name}"
        files[path] = changes(rng, one.sample.block_bytes // SECTOR).encode()
        words[part] = f"changes {name} /{path}"
    return HISTORIES[history].format(**words) + f"\nnote_dirty {name} {name}\n"


def working(batch: Sequence[Placed]) -> tuple[str, dict[str, bytes]]:
    """The scenario in which all sets are used, and end as they should; and its files."""
    rng = random.Random(len(batch))
    files = {"fill": rng.randbytes(FILL_BYTES)}
    lines = []
    for one in batch:
        lines.append(f"register_one {one.cache_disk}")
        lines += [
            f"start {disk} {name}\njoin {disk} {name} {one.cache_disk}" for disk, name, _ in one.parts()
        ]
    for one in batch:
        lines += [history_of(one, place, rng, files) for place in range(len(one.backings))]
    lines += [f"stop_one {one.cache_disk}" for one in batch if not one.sample.cut]
    under_way = [one.parts()[0][1] for one in batch if one.sample.cut]
    lines += [f"( while :; do changes {name} /under_way.{name}; done ) &" for name in under_way]
    return "\n".join([*lines, "sleep 1", "cut_off\n"]), files


def reading(batch: Sequence[Placed]) -> str:
    """The scenario in which the kernel reads all volumes."""
    lines = []
    for one in batch:
        lines.append(f"register_one {one.cache_disk}")
        lines += [f"start {disk} {name}" for disk, name, _ in one.parts()]
    lines += [f"note_contents {name} {name}" for one in batch for _, name, _ in one.parts()]
    return "\n".join(lines) + "\n"


def reading_alone(batch: Sequence[Placed]) -> str:
    """The scenario in which the kernel reads all backing devices without a cache."""
    parts = [part for one in batch for part in one.parts()]
    lines = [f"alone {disk} {name}\nnote_contents {name} {name}" for disk, name, _ in parts]
    return "\n".join(lines) + "\n"
