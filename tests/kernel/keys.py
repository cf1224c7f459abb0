"""The claims about keys: what clients of the daemon stored is there for the kernel, and the other way round."""

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
from .model import Model, token
from .ours import made
from .scenario import Volume

FLASH_SECTORS, PLAIN_SECTORS, CHURNED_SECTORS = 20480, 6144, 2048
FILL_SECTORS = 512
FRONT = bytes(DATA_OFFSET * SECTOR)  # of a backing device: its keys count these sectors, its readers do not

# Bytes of bucket and block, an image's size, and how many extents are written to the flash-only volume.
SHAPES = {
    "4k 512": (4 << 10, 512, 32 << 20, 16000),  # three levels, seven prio buckets
    "64k 512": (64 << 10, 512, 64 << 20, 6000),
    "16k 4k": (16 << 10, 4096, 32 << 20, 3000),
    "512k 4k": (512 << 10, 4096, 512 << 20, 2000),
}


@dataclass
class Trial:
    """An image on its way between daemon and kernel, and what its volumes must hold."""

    lab: Lab
    path: Path
    block_sectors: int
    rng: random.Random
    complaints: list[str] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    writes: int = 0

    def begin(self, writes: int, *, killed: bool) -> None:
        """The daemon's clients fill three volumes and take one away; then it stops, or is killed at work."""
        with serving(self.path) as daemon:
            with daemon.client() as client:
                flash = client.create_volume("flash", sectors=FLASH_SECTORS)
                self.flash = Model(flash, bytes(FLASH_SECTORS * SECTOR), churned=CHURNED_SECTORS)
                plain = client.create_volume("plain")
                below = b"".join(token(99, sector, 0) for sector in range(PLAIN_SECTORS))
                self.plain = Model(plain, FRONT + below, first=DATA_OFFSET)
                (volume,) = (volume for volume in client.list_volumes() if volume.inode == plain)
                self.work(client, writes)
                self.remove_another(client)
                client.flush()
            if killed:
                churn_and_kill(daemon, self.flash, self.block_sectors, seed=writes)
            else:
                daemon.stop()
        self.backing = images.make_backing(
            self.path.with_suffix(".backing"), below, UUID(volume.uuid).bytes, self.path, dirty=True
        )

    def work(self, client: BlockingClient, writes: int) -> None:
        """Write, overwrite and drop, with collections and prio writes in between."""
        filler = Filler(client, self.rng, self.block_sectors, number=self.writes)
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
        Filler(client, self.rng, self.block_sectors).write(gone, 200)
        client.delete_volume(gone.inode, force=True)

    def before_the_kernel(self, *, fill: bool = False, cut: bool = False) -> None:
        """The kernel reads it all, writes to the beginning of both volumes, collects garbage and stops."""
        data = b"".join(token(77, sector, len(self.verdicts)) for sector in range(FILL_SECTORS))
        verdict = judge(
            self.lab.machine,
            self.path,
            volumes=[Volume("bcache0", FLASH_SECTORS * SECTOR)],
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
        depth = self.verdicts[0].facts.get("tree_depth", "?")
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


def filled(lab: Lab, shape: str, killed: bool) -> Outcome:
    """Daemon, kernel, daemon, kernel, with one image."""
    bucket_bytes, block_bytes, size_bytes, writes = SHAPES[shape]
    path = made(lab, f"keys-{shape}", (bucket_bytes, block_bytes, size_bytes))
    trial = Trial(lab, path, block_bytes // SECTOR, random.Random(writes + killed))
    trial.begin(writes, killed=killed)
    trial.before_the_kernel(fill=True, cut=killed)
    trial.before_the_daemon(writes // 4)
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
        Case(f"keys {shape} {end}", CLAIM.format(end), partial(filled, shape=shape, killed=end == "killed"))
        for shape in SHAPES
        for end in ("stopped", "killed")
    ),
)
