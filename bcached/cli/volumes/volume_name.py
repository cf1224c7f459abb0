# SPDX-License-Identifier: GPL-2.0-only
"""A volume on the command line: by its inode, or by its label."""

from difflib import get_close_matches

import click

from bcached.client.blocking import BlockingClient
from bcached.errors import AmbiguousLabel, BcachedError


class VolumeName(click.ParamType[int | str]):
    """An inode (digits), or a label."""

    name = "volume"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """An inode, or a label as it is."""
        text = str(value)
        if text.isascii() and text.isdigit():
            return int(text)
        if not text:
            self.fail("expected an inode or a label, found nothing", param, ctx)
        return text


def inode_of(client: BlockingClient, volume: int | str) -> int:
    """Returns the inode of a volume given by it or by its label, which must be that of one volume."""
    if isinstance(volume, int):
        return volume
    volumes = client.volumes()
    found = [one.inode for one in volumes if one.label == volume]
    if len(found) > 1:
        raise AmbiguousLabel(volume, found)
    if not found:
        close = get_close_matches(volume, [one.label for one in volumes], 1)
        hint = f"did you mean {close[0]!r}?" if close else "bcachectl volume list prints them all"
        raise BcachedError(f"no volume has the label {volume!r}: {hint}")
    return found[0]


VOLUME = VolumeName()
