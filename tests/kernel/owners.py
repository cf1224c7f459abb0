# SPDX-License-Identifier: GPL-2.0-only
"""The claim about owners of volumes: the kernel rewrites the table that holds them, and leaves them in it."""

from dataclasses import replace
from pathlib import Path
from uuid import UUID

from bcached.client.blocking import BlockingClient
from bcached.wire.volume_messages import VolumeOwner

from . import images
from .daemon import serving
from .images import SECTOR
from .judge import judge
from .lab import Case, Lab, Outcome
from .ours import made
from .scenario import Volume

FLASH_BYTES, BACKING_BYTES = 1 << 20, 8 << 20
OWNERS = (VolumeOwner(user=54321, others="nothing"), VolumeOwner(group=54322, others="read"))
SLOT_BYTES, OWNER_AT = 128, 72  # of a slot of the table, and of the owner in it
LAST_REG_AT = 52  # when the kernel attached it last


def owned(lab: Lab) -> Outcome:
    """A flash-only volume and a backing device's, each with an owner, used by the kernel and opened again."""
    path = made(lab, "owned")
    with serving(path) as daemon, daemon.client() as client:
        client.create_volume("flash", sectors=FLASH_BYTES // SECTOR, owner=OWNERS[0])
        client.create_volume("plain", owner=OWNERS[1])
        uuid = UUID(client.list_volumes()[1].uuid).bytes
        daemon.stop()
    before = slots(path)
    backing = images.make_backing(path.with_suffix(".backing"), bytes(BACKING_BYTES), uuid, path)
    verdict = judge(
        lab.machine,
        path,
        volumes=[Volume("bcache0", FLASH_BYTES)],
        backing=backing,
        fill=b"bcached!" * 8192,
        keep_writes=True,
    )
    after = slots(path)
    complaints = list(wrong(before, after))
    with serving(path) as daemon, daemon.client() as client:
        complaints += [f"verify after opening: {violation}" for violation in client.verify()]
        complaints += told(client)
        daemon.stop()
    outcome = Outcome.of(verdict, judge(lab.machine, path, volumes=[Volume("bcache0", FLASH_BYTES)]))
    note = f"the table moved from sector {before[0]} to {after[0]}"
    facts = {**outcome.facts, "note": note}
    return replace(outcome, complaints=(*outcome.complaints, *complaints), facts=facts)


def slots(path: Path) -> tuple[int, list[bytes]]:
    """The sector of the newest table, and its first slots."""
    sector = images.journal(path)[-1].uuid_table.sector
    raw = images.read_at(path, sector * SECTOR, 2 * SLOT_BYTES)
    return sector, [raw[:SLOT_BYTES], raw[SLOT_BYTES:]]


def wrong(before: tuple[int, list[bytes]], after: tuple[int, list[bytes]]) -> list[str]:
    """What is not as it must be: the kernel wrote another table, with the same owners."""
    complaints = []
    if before[0] == after[0] or before[1][1][LAST_REG_AT:OWNER_AT] == after[1][1][LAST_REG_AT:OWNER_AT]:
        complaints.append("the kernel has not written the table, so this shows nothing")
    for number, (ours, kernels) in enumerate(zip(before[1], after[1], strict=True)):
        if ours[OWNER_AT:] != kernels[OWNER_AT:] or not any(ours[OWNER_AT:]):
            complaints.append(f"slot {number}: the owner was {ours[OWNER_AT:]!r}, is {kernels[OWNER_AT:]!r}")
    return complaints


def told(client: BlockingClient) -> list[str]:
    """What the daemon says of the owners that it should not."""
    found = tuple(volume.owner for volume in client.list_volumes())
    return [] if found == OWNERS else [f"the daemon finds the owners {found}"]


OWNED = (Case("owners", "the kernel keeps the owners of volumes when it rewrites their table", owned),)
