# SPDX-License-Identifier: GPL-2.0-only
"""What the guest is to do, in the words of guest/init."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Volume:
    """A flash-only volume that must appear as a block device."""

    device: str
    size_bytes: int


def use(
    volumes: Sequence[Volume] = (),
    *,
    backing: str = "",
    give: bool = False,
    fill: bool = False,
    cut: bool = False,
    hits: bool = False,
) -> str:
    """Register the disk named cache, look at it, use it, collect garbage, stop it (or cut it off).

    backing: the device that the disk named backing becomes, beside the volumes. give: hand over what all of
    them hold, before anything is written to them. hits: count reads of the backing device's data that hit.
    """
    lines = ["register cache || return 0", "note_set"]
    lines += [f"volume {volume.device} {volume.size_bytes}" for volume in volumes]
    devices = [volume.device for volume in volumes]
    if backing:
        lines += [f"attach backing {backing}"]
        devices += [backing]
    if give:
        lines += [f"give {device}" for device in devices]
    if hits:
        lines += [f"note_hits {backing}"]
    if fill:
        lines += [f"fill {device} /fill" for device in devices]
    lines += ["collect_garbage"]
    lines += ["has_set || fail 'the cache set is gone'" if cut else "stop_set"]
    return "\n".join(lines) + "\n"


def start_alone(disk: str, device: str) -> str:
    """Register the backing device on a disk without a cache, and hand over what it holds."""
    return f"alone {disk} {device}\ngive {device}\n"
