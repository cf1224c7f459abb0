# SPDX-License-Identifier: GPL-2.0-only
"""The claims about keys: what one of daemon and kernel stored is there for the other."""

import random
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from uuid import UUID

from bcached.client.blocking import BlockingClient

from . import images
from .daemon import DaemonFailed, serving
from .filler import Filler, churn_and_kill
from .images import DATA_OFFSET, SECTOR
from .judge import Verdict, judge
from .lab import Case, Lab, Outcome
from .machine import Machine
from .model import Model, token
from .ours import made
from .scenario import Volume

PLAIN_SECTORS, CHURNED_SECTORS = 6144, 2048
FILL_SECTORS = 512
FRONT = bytes(DATA_OFFSET * SECTOR)  # of a backing device: its keys count these sectors, its readers do not


@dataclass(frozen=True, slots=True)
class Shape:
    """An image, and how it is filled."""

    bucket_bytes: int
    block_bytes: int
    size_bytes: int
    flash_sectors: int
    writes: int
    blocks_max: int = 3  # of one write
    depth: int = 0  # the levels above the leaves that this must come to

    @property
    def block_sectors(self) -> int:
        """A block, in sectors."""
        return self.block_bytes // SECTOR


SHAPES = {
    "4k 512": Shape(4 << 10, 512, 32 << 20, 40960, 24000, blocks_max=1, depth=2),  # seven prio buckets
    "64k 512": Shape(64 << 10, 512, 64 << 20, 20480, 6000),
    "16k 4k": Shape(16 << 10, 4096, 32 << 20, 20480, 3000, depth=1),
    "8k 4k": Shape(8 << 10, 4096, 64 << 20, 20480, 3000, depth=1),  # the kernel crashes on nodes of one block
    "512k 4k": Shape(512 << 10, 4096, 512 << 20, 20480, 2000),
}
DEBUGGED = ("4k 512", "16k 4k")


@dataclass
class Trial:
    """An image on its way between daemon and kernel, and what its volumes must hold."""

    machine: Machine
    path: Path
    shape: Shape
    rng: random.Random
    complaints: list[str] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    writes: int = 0

    def begin(self, *, killed: bool) -> None:
        """The daemon's clients fill three volumes and take one away; then it stops, or is killed at work."""
        with serving(self.path) as daemon:
            with daemon.client() as client:
                flash = client.create_volume("flash", sectors=self.shape.flash_sectors)
                self.flash = Model(flash, bytes(self.shape.flash_sectors * SECTOR), churned=CHURNED_SECTORS)
                plain = client.create_volume("plain")
                below = b"".join(token(99, sector, 0) for sector in range(PLAIN_SECTORS))
                self.plain = Model(plain, FRONT + below, first=DATA_OFFSET)
                (volume,) = (volume for volume in client.list_volumes() if volume.inode == plain)
                self.work(client, self.shape.writes)
                self.remove_another(client)
                client.flush()
            if killed:
                churn_and_kill(daemon, self.flash, self.shape.block_sectors, seed=self.shape.writes)
            else:
                daemon.stop()
        self.backing = images.make_backing(
            self.path.with_suffix(".backing"), below, UUID(volume.uuid).bytes, self.path, dirty=True
        )

    def work(self, client: BlockingClient, writes: int) -> None:
        """Write, overwrite and drop, with collections and prio writes in between."""
        shape = self.shape
        filler = Filler(client, self.rng, shape.block_sectors, shape.blocks_max, self.writes)
        for part in range(4):
            filler.write(self.flash, writes // 4)
            filler.drop(self.flash, writes // 100)
            filler.write(self.plain, writes // 40, dirty=False)
            filler.write(self.plain, writes // 40)
            filler.drop(self.plain, writes // 400)
            if part % 2:
                client.collect_garbage(wait=True)
            else:
                client.write_priorities()
        self.writes = filler.number

    def remove_another(self, client: BlockingClient) -> None:
        """A volume with keys that goes again."""
        gone = Model(client.create_volume("gone"), bytes(2048 * SECTOR))
        Filler(client, self.rng, self.shape.block_sectors).write(gone, 200)
        client.delete_volume(gone.inode, force=True)

    def before_the_kernel(self, *, fill: bool = False, cut: bool = False) -> None:
        """The kernel reads it all, writes to the beginning of both volumes, collects garbage and stops."""
        data = b"".join(token(77, sector, len(self.verdicts)) for sector in range(FILL_SECTORS))
        verdict = judge(
            self.machine,
            self.path,
            volumes=[Volume("bcache0", self.shape.flash_sectors * SECTOR)],
            backing=self.backing,
            give=True,
            fill=data if fill else b"",
            cut=cut,
            keep_writes=True,
        )
        self.verdicts.append(verdict)
        found = verdict.given.get("bcache0", b""), FRONT + verdict.given.get("bcache1", b"")
        for model, held in zip((self.flash, self.plain), found, strict=True):
            self.complaints += [f"read by the kernel, {wrong}" for wrong in model.wrong(held)]
            model.settle(held)
        if not self.plain.served(found[1]):
            self.complaints.append("none of the plain volume's clean keys was served")
        written_back = images.read_at(self.backing, len(FRONT), PLAIN_SECTORS * SECTOR)
        self.plain.below = FRONT + written_back
        if fill:
            self.flash.put(0, data, dirty=True)
            self.plain.put(DATA_OFFSET, data, dirty=True)

    def before_the_daemon(self, writes: int) -> None:
        """The daemon finds all in order, data included, and goes on with it."""
        with serving(self.path) as daemon:
            with daemon.client() as client:
                self.complaints += [f"verify after opening: {violation}" for violation in client.verify()]
                for model in (self.flash, self.plain):
                    held = fetched(client, model)
                    self.complaints += [f"read by the daemon, {wrong}" for wrong in model.wrong(held)]
                self.work(client, writes)
                client.flush()
            daemon.stop()

    def outcome(self) -> Outcome:
        """What it came to."""
        outcome = Outcome.of(*self.verdicts)
        depth = int(self.verdicts[0].facts.get("tree_depth", "0"))
        if depth < self.shape.depth:
            self.complaints.append(f"the tree's depth is {depth}, so this shows less than it should")
        note = f"{self.writes} writes, tree depth {depth}"
        return replace(
            outcome,
            complaints=(*outcome.complaints, *self.complaints),
            facts={**outcome.facts, "note": note},
        )


def fetched(client: BlockingClient, model: Model) -> bytes:
    """The volume as a client reads it; what lies below where nothing is cached."""
    held = bytearray(model.below)
    for offset, data in client.fetch(model.inode, 0, model.sectors):
        held[offset * SECTOR : offset * SECTOR + len(data)] = data
    return bytes(held)


def filled(lab: Lab, name: str, killed: bool, debug: bool = False) -> Outcome:
    """Daemon, kernel, daemon, kernel, with one image."""
    shape = SHAPES[name]
    machine = lab.debug_machine if debug else lab.machine
    path = made(lab, f"keys-{name}", (shape.bucket_bytes, shape.block_bytes, shape.size_bytes))
    trial = Trial(machine, path, shape, random.Random(shape.writes + killed))
    trial.begin(killed=killed)
    trial.before_the_kernel(fill=True, cut=killed)
    trial.before_the_daemon(shape.writes // 4)
    trial.before_the_kernel()
    return trial.outcome()


def opened(lab: Lab) -> Outcome:
    """A set in which the kernel has put keys is opened, and holds what the kernel put there."""
    path = made(lab, "keys")
    with serving(path) as daemon, daemon.client() as client:
        client.create_volume("flash", sectors=2048)
        daemon.stop()
    data = b"bcached!" * 8192
    filled = judge(lab.machine, path, volumes=[Volume("bcache0", 1 << 20)], fill=data, keep_writes=True)
    with serving(path) as daemon:
        with daemon.client() as client:
            held = fetched(client, Model(0, bytes(1 << 20)))
            if client.verify():
                raise DaemonFailed(f"verify after opening: {client.verify()}")
        daemon.stop()
    wrong = (
        () if held == data.ljust(1 << 20, b"\0") else ("the daemon reads other data than the kernel wrote",)
    )
    outcome = Outcome.of(filled, judge(lab.machine, path))
    return replace(outcome, complaints=outcome.complaints + wrong)


CLAIM = "kernel and daemon read, write and collect what the other stored, the daemon {}"

KEYS = (
    Case("keys opened", "an image with the kernel's keys is opened, and its data is there", opened),
    *(
        Case(f"keys {name} {end}", CLAIM.format(end), partial(filled, name=name, killed=end == "killed"))
        for name in SHAPES
        for end in ("stopped", "killed")
    ),
    *(
        Case(
            f"debug {name} {end}",
            f"so it is with a bcache that checks all it can, the daemon {end}",
            partial(filled, name=name, killed=end == "killed", debug=True),
        )
        for name in DEBUGGED
        for end in ("stopped", "killed")
    ),
)
