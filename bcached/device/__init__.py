"""The only room that holds a file descriptor: image files, block devices and memory behind one interface.

A write or discard says nothing about power: what returned is durable only once a flush that was issued
after it has returned, or when it was written as durable itself. A read gives all it was asked for or
raises. The first failed flush is the last one: what it should have covered may be gone, and a second
attempt may lie about it.
"""

from bcached.device.block_device import BlockDevice, BytesLike, DeviceStatistics
from bcached.device.file_device import FileDevice
from bcached.device.memory_device import MemoryDevice

__all__ = ["BlockDevice", "BytesLike", "DeviceStatistics", "FileDevice", "MemoryDevice"]
