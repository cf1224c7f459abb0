# SPDX-License-Identifier: GPL-2.0-only
"""What kernel packages hold packed, unpacked; how it is packed, its first bytes tell.

Python knows zstd from 3.14 on only, so for that there must be the program.
"""

import lzma
import subprocess
import zlib
from collections.abc import Callable

from .errors import HarnessFailed
from .process import need

GZIP = b"\x1f\x8b"


def unzstd(packed: bytes) -> bytes:
    """The bytes in a zstd frame, by way of the program zstd."""
    need({"zstd": "zstd"})
    done = subprocess.run(["zstd", "-dc"], input=packed, capture_output=True)
    if done.returncode != 0:
        raise HarnessFailed(f"zstd -dc: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


UNPACKERS: dict[bytes, Callable[[bytes], bytes]] = {
    b"\xfd7zXZ": lambda packed: lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(packed),
    b"\x5d\0\0": lambda packed: lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(packed),
    GZIP: lambda packed: zlib.decompressobj(wbits=31).decompress(packed),
    b"\x28\xb5\x2f\xfd": unzstd,
    b"\x7fELF": lambda plain: plain,
}


def unpack(packed: bytes) -> bytes:
    """The bytes, whichever way they are packed; an ELF file as it is."""
    for magic, unpacker in UNPACKERS.items():
        if packed.startswith(magic):
            return unpacker(packed)
    raise HarnessFailed(f"packed in a way unknown here: it begins {packed[:6].hex()}")
