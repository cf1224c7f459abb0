# SPDX-License-Identifier: GPL-2.0-only
"""The disk format: bytes to frozen values and back. One on-disk structure a file.

Rules of the package: it alone knows offsets, shifts and checksums (`struct` is imported nowhere else).
Everything on disk is little-endian. `parse` checks the magic number, the checksum and every field, and
raises a subclass of FormatError or returns a value that is valid by itself; what depends on the geometry of a
device (is this pointer inside a bucket?) is checked by bkey.check_extent and bkey.check_node_key. `pack` is
its inverse and asserts what parse would check. In `where`, callers name the location as an operator would:
"sector 8 of cache.img".

    0       4096        8192      12288       first_bucket         + njournal                nbuckets
    | empty | superblock | its copy |  unused | journal buckets ... | any bucket: data, btree, |
    |       |            | (ours)   |         |                     | prios, uuids             |
"""
