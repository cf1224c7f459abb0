# SPDX-License-Identifier: GPL-2.0-only
"""Roles: which methods the peers of the socket may call.

Names are resolved once, when the lists are read, so that no connection waits for a name service. A grant to a
group holds for peers whose credentials have it and for the users the group file lists as its members.
"""

import grp
import os
import pwd
from collections.abc import Iterable
from enum import IntEnum

from bcached.service.users.peer import Peer


class Role(IntEnum):
    """What a peer may do; each role includes those below it."""

    NONE = 0
    READER = 1
    ALLOCATOR = 2
    ADMIN = 3

    @property
    def label(self) -> str:
        """Returns its name on the socket."""
        return self.name.lower()


class Access:
    """The role of every peer; `unknown` holds the names that could not be resolved."""

    def __init__(self, admin: Iterable[str], allocator: Iterable[str], reader: Iterable[str]) -> None:
        self.unknown: list[str] = []
        self._uids: dict[int, Role] = {}
        self._gids: dict[int, Role] = {}
        for role, names in ((Role.READER, reader), (Role.ALLOCATOR, allocator), (Role.ADMIN, admin)):
            for name in names:
                self._grant(role, name)
        self._uids[os.geteuid()] = Role.ADMIN

    def role_of(self, peer: Peer) -> Role:
        """Returns the highest role granted to the peer's user or one of its groups."""
        by_group = (self._gids.get(group, Role.NONE) for group in peer.groups)
        return max((self._uids.get(peer.uid, Role.NONE), *by_group))

    def _grant(self, role: Role, name: str) -> None:
        """Grant a role. Called from the lowest to the highest role, so the last grant holds."""
        if not name.startswith("@"):
            self._grant_user(role, name, name)
            return
        try:
            group = grp.getgrnam(name[1:])
        except KeyError:
            self.unknown.append(name)
            return
        self._gids[group.gr_gid] = role
        for member in group.gr_mem:
            self._grant_user(role, member, f"{member} in {name}")

    def _grant_user(self, role: Role, user: str, called: str) -> None:
        try:
            self._uids[pwd.getpwnam(user).pw_uid] = role
        except KeyError:
            self.unknown.append(called)
