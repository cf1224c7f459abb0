# SPDX-License-Identifier: GPL-2.0-only
"""The kernel as an ELF file, out of the compressed image in the package.

qemu starts an ELF kernel through its PVH entry; the emulated processor then need not unpack 40 MB by
itself at each boot, which takes longer than all the rest of the boot.
"""

from .errors import HarnessFailed
from .packed import GZIP, unpack

# Offsets in the boot header (Linux: Documentation/arch/x86/boot.rst).
SETUP_SECTORS = 0x1F1
SIGNATURE = 0x202
PAYLOAD_OFFSET = 0x248
PAYLOAD_LENGTH = 0x24C
SIZE_BYTES = 4  # the unpacked size, which the build puts behind all but gzip, where it is part of the format


def unpack_vmlinux(image: bytes) -> bytes:
    """The ELF kernel inside a bzImage."""
    if image[SIGNATURE : SIGNATURE + 4] != b"HdrS":
        raise HarnessFailed("the kernel package's vmlinuz is no bzImage")
    start = (image[SETUP_SECTORS] + 1) * 512 + number(image, PAYLOAD_OFFSET)
    payload = image[start : start + number(image, PAYLOAD_LENGTH)]
    return elf(unpack(payload if payload.startswith(GZIP) else payload[:-SIZE_BYTES]))


def number(image: bytes, offset: int) -> int:
    """A 32-bit field of the boot header."""
    return int.from_bytes(image[offset : offset + 4], "little")


def elf(kernel: bytes) -> bytes:
    """The kernel, if it is what qemu can start."""
    if not kernel.startswith(b"\x7fELF"):
        raise HarnessFailed("what the bzImage holds is no ELF file")
    return kernel
