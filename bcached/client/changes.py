# SPDX-License-Identifier: MIT
"""The change counters, mapped read-only: they tell without a request whether a look-up still holds."""

from bcached.client.mapped_file import map_file
from bcached.wire.change_map import ChangeMap
from bcached.wire.messages import ChangeMapFile


def mapped_changes(file: ChangeMapFile) -> ChangeMap:
    """Returns the counters, mapped while they are referenced. Raises DeviceError, BadMagic or BadField."""
    return ChangeMap.parse(map_file(file.path, file.bytes, "the change counters"), file.path)
