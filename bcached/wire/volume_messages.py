# SPDX-License-Identifier: MIT
"""The parameters and results of the methods on volumes, of both interfaces that have such methods."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from bcached.keys import OFFSET_MAX, Inode
from bcached.wire.messages import Parameters, Results

LABEL_BYTES_MAX = 32  # as UTF-8
VolumeSectors = Annotated[int, Meta(ge=0, le=OFFSET_MAX)]
Others = Literal["read", "nothing"]
UserId = Annotated[int, Meta(ge=0, le=0xFFFFFFFE)]  # (uid_t) -1 is no user


class VolumeOwner(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """A user or a group, who alone changes a volume, and what all others may do with it."""

    user: UserId | None = None
    group: UserId | None = None
    others: Others | None = None


class Volume(Struct, omit_defaults=True, gc=False):
    """An entry of the uuid table."""

    inode: int
    uuid: str
    label: str
    sectors: int
    flash_only: bool
    owner: VolumeOwner | None = None
    maker: int | None = None


class Orphan(Struct, gc=False):
    """The keys under an inode without a volume."""

    inode: int
    keys: int
    dirty_sectors: int
    clean_sectors: int


class ListedVolumes(Results):
    """The results of ListVolumes and of Volumes."""

    volumes: tuple[Volume, ...]
    orphans: tuple[Orphan, ...] = ()


class CreateVolume(Parameters, frozen=True):
    """A volume to create."""

    label: str
    sectors: VolumeSectors | None = None
    uuid: str | None = None
    owner: VolumeOwner | None = None


class NewVolume(Results):
    """CreateVolume's results."""

    inode: int


class DeleteVolume(Parameters, frozen=True):
    """A volume to delete."""

    inode: Inode
    force: bool | None = None


class SetVolumeOwner(Parameters, frozen=True):
    """A volume and its new owner, or none."""

    inode: Inode
    owner: VolumeOwner | None = None


class OpenVolume(Parameters, frozen=True):
    """A volume to be found by its label, or to be created."""

    label: str
    sectors: VolumeSectors | None = None
    owner: VolumeOwner | None = None


class OpenedVolume(Results):
    """OpenVolume's results."""

    inode: int
    created: bool
