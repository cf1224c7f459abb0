# SPDX-License-Identifier: GPL-2.0-only
"""The owner of a volume on the command line: a user, or a group with an @ before it, by name or number."""

import grp
import pwd
from collections.abc import Callable

import click
from msgspec.structs import replace

from bcached.wire.volume_messages import Others, VolumeOwner

ID_MAX = 0xFFFFFFFE  # (uid_t) -1 is no user


class OwnerName(click.ParamType[VolumeOwner]):
    """alice, 1000, @staff or @50."""

    name = "owner"

    def convert(
        self, value: str | VolumeOwner, param: click.Parameter | None, ctx: click.Context | None
    ) -> VolumeOwner:
        """An owner, with the number of what was named."""
        if isinstance(value, VolumeOwner):
            return value
        name = value.removeprefix("@")
        kind = "group" if value.startswith("@") else "user"
        number = int(name) if name.isascii() and name.isdigit() else id_of(kind, name)
        if number is None:
            self.fail(f"no {kind} has the name {name!r}: use a number for one of another host", param, ctx)
        if number > ID_MAX:
            self.fail(f"expected a number of a {kind} up to {ID_MAX}, found {number}", param, ctx)
        return VolumeOwner(group=number) if kind == "group" else VolumeOwner(user=number)


def id_of(kind: str, name: str) -> int | None:
    """Returns the number of a user or a group of this host, or None if there is none of that name."""
    try:
        return grp.getgrnam(name).gr_gid if kind == "group" else pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def with_others(owner: VolumeOwner | None, others: Others | None) -> VolumeOwner | None:
    """Returns the owner with what others may do, if that was said."""
    return owner if owner is None or others is None else replace(owner, others=others)


def owner_text(owner: VolumeOwner | None) -> str:
    """Returns an owner by its name, and whether the volume is hidden from others; empty for none."""
    if owner is None:
        return ""
    if owner.group is not None:
        text = "@" + named(owner.group, lambda number: grp.getgrgid(number).gr_name)
    else:
        text = user_name(owner.user or 0)
    return f"{text}, hidden" if owner.others == "nothing" else text


def user_name(uid: int) -> str:
    """Returns the name of a user, or its number."""
    return named(uid, lambda number: pwd.getpwuid(number).pw_name)


def named(number: int, name_of: Callable[[int], str]) -> str:
    """Returns the name of a number, or the number."""
    try:
        return name_of(number)
    except KeyError:
        return str(number)


OWNER = OwnerName()
