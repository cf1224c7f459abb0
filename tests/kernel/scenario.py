"""What the guest is to do, in the words of guest/init."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Volume:
    """A flash-only volume that must appear as a block device."""

    device: str
    size_bytes: int


def use(volumes: Sequence[Volume] = (), *, fill: bool = False, cut: bool = False) -> str:
    """Register the disk named cache, look at it, use it, collect garbage, stop it (or cut it off)."""
    lines = ["register cache || return 0", "note_set"]
    lines += [f"volume {volume.device} {volume.size_bytes}" for volume in volumes]
    if fill:
        lines += [f"fill {volume.device} /fill" for volume in volumes]
    lines += ["collect_garbage"]
    lines += ["has_set || fail 'the cache set is gone'" if cut else "stop_set"]
    return "\n".join(lines) + "\n"
