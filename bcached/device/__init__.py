# SPDX-License-Identifier: GPL-2.0-only
"""The only package that holds device descriptors: image files and block devices, one interface.

A write or discard that returned is not durable yet: it is once a flush issued after that has returned, or
if the write was a durable one. A read returns all bytes asked for or raises. After the first failed flush
none is tried: what it should have covered may be lost, and a second flush may falsely succeed.
"""

from bcached.device.block_device import BlockDevice, BytesLike
from bcached.device.file_device import FileDevice

__all__ = ["BlockDevice", "BytesLike", "FileDevice"]
