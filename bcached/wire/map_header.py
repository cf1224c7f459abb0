# SPDX-License-Identifier: MIT
"""The header that the daemon's mapped files have in common: one page of little-endian words.

Each word is written by one aligned 8-byte store, so a reader never sees a torn value.
"""

from bcached.errors import BadField, BadMagic

HEADER_BYTES = 4096  # one page, so that the column behind it begins on a page boundary
MAGIC_AT, VERSION_AT, COUNT_AT, LIFE_AT = 0, 8, 16, 24


def get_word(memory: memoryview, at: int) -> int:
    """Returns the word at a byte of the header."""
    return int.from_bytes(memory[at : at + 8], "little")


def put_word(memory: memoryview, at: int, value: int) -> None:
    """Write the word at a byte of the header."""
    memory[at : at + 8] = value.to_bytes(8, "little")


def check_header(memory: memoryview, structure: str, where: str, *, magic: int, version: int) -> None:
    """Raises BadField or BadMagic unless the bytes begin with this header."""
    if memory.nbytes < HEADER_BYTES:
        raise BadField(structure, f"{where} length", f"at least {HEADER_BYTES} bytes", memory.nbytes)
    found_magic, found_version = get_word(memory, MAGIC_AT), get_word(memory, VERSION_AT)
    if found_magic != magic:
        raise BadMagic(structure, where, f"{magic:#x}", f"{found_magic:#x}")
    if found_version != version:
        raise BadField(structure, f"{where} version", version, found_version)
