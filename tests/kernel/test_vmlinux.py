# SPDX-License-Identifier: GPL-2.0-only
"""The kernel out of a bzImage."""

import gzip
import lzma
from collections.abc import Callable

import pytest

from .errors import HarnessFailed
from .test_packed import needs_zstd, zstd
from .vmlinux import unpack_vmlinux

KERNEL = b"\x7fELF" + b"kernel" * 1000
SETUP_SECTORS, PAYLOAD_OFFSET = 3, 0x2C8


def bzimage(payload: bytes) -> bytes:
    image = bytearray((SETUP_SECTORS + 1) * 512 + PAYLOAD_OFFSET)
    image[0x1F1] = SETUP_SECTORS
    image[0x202:0x206] = b"HdrS"
    image[0x248:0x24C] = PAYLOAD_OFFSET.to_bytes(4, "little")
    image[0x24C:0x250] = len(payload).to_bytes(4, "little")
    return bytes(image) + payload + b"what comes behind it"


def with_size(data: bytes, packed: bytes) -> bytes:
    # The kernel's build puts the unpacked size behind the packed bytes.
    return packed + len(data).to_bytes(4, "little")


def xz(data: bytes) -> bytes:
    return with_size(data, lzma.compress(data))


@pytest.mark.parametrize(
    "pack",
    [
        xz,
        gzip.compress,
        lambda data: with_size(data, lzma.compress(data, lzma.FORMAT_ALONE)),
        pytest.param(lambda data: with_size(data, zstd(data)), marks=needs_zstd),
    ],
)
def test_a_packed_kernel_comes_out_whole(pack: Callable[[bytes], bytes]) -> None:
    assert unpack_vmlinux(bzimage(pack(KERNEL))) == KERNEL


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (bytes(4096), "no bzImage"),
        (bzimage(b"BZh91AY"), "packed in a way unknown"),
        (bzimage(xz(b"not a kernel")), "no ELF"),
        (bzimage(b""), "packed in a way unknown"),
    ],
)
def test_anything_else_is_told(image: bytes, told: str) -> None:
    with pytest.raises(HarnessFailed, match=told):
        unpack_vmlinux(image)
