# SPDX-License-Identifier: GPL-2.0-only
"""Roles by number, so that a test is a peer of any role without other users."""

from typing import Any

from bcached.service.users.access import Access


class GrantedByNumber(Access):
    """Roles for numbers, as a host would have them that knows these users."""

    def __init__(self, uids: dict[int, Any], gids: dict[int, Any]) -> None:
        super().__init__([], [], [])
        self._uids.update(uids)
        self._gids.update(gids)
