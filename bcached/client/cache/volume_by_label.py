# SPDX-License-Identifier: MIT
"""The volume of a cache."""

from bcached.client.attachment import Attachment
from bcached.client.protocol import verbs
from bcached.client.socket_channel import SocketChannel
from bcached.errors import DeviceError

READER = "reader"  # the role that may not write


def volume_of(channel: SocketChannel, at: Attachment, label: str) -> int:
    """Returns the inode of the volume with this label, made if there is none and the role permits it."""
    if at.description.role != READER:
        inode, _ = channel.ask(verbs.open_volume(at, label))
        return inode
    inodes = [one.inode for one in channel.ask(verbs.volumes(at)) if one.label == label]
    if len(inodes) != 1:
        raise DeviceError(at.path, f"{len(inodes)} volumes have the label {label!r}, expected one")
    return inodes[0]
