# SPDX-License-Identifier: GPL-2.0-only
"""What each peer is sent: the bytes of a request, cut where its number stands."""

from dataclasses import dataclass

EXTENT_SECTORS = 8  # 4 KiB: the smallest extent is where an allocator is asked most often
BUCKET_SECTORS = 1024  # 512k, the default of make
VALUE_BYTES = 24  # two words and one pointer


@dataclass(frozen=True)
class Request:
    """See bench.load.Load: prefix, the growing number (if any), suffix; `{inode}` is the connection's own."""

    prefix: str
    suffix: str
    terminator: str
    bad: str
    numbered: bool = True
    extents: int = 1
    shuffled: bool = False
    commits: bool = False


def allocate() -> Request:
    """One extent, the next of a file that is written from its beginning."""
    return Request(
        prefix='{"method":"io.bcached.Allocator.Allocate","parameters":{"inode":{inode},"offset":',
        suffix=f',"sectors":{EXTENT_SECTORS}' + "}}\0",
        terminator="\0",
        bad='"error"',
    )


def allocate_many(extents: int) -> Request:
    """That many extents of a file, one behind the other, in one request."""
    offsets = range(10_000_000, 10_000_000 + extents * EXTENT_SECTORS, EXTENT_SECTORS)
    asked = (f'{{"inode":{{inode}},"offset":{offset},"sectors":{EXTENT_SECTORS}}}' for offset in offsets)
    return Request(
        prefix='{"method":"io.bcached.Allocator.AllocateMany","parameters":{"requests":[' + ",".join(asked),
        suffix="]}}\0",
        terminator="\0",
        bad='"error"',
        numbered=False,
        extents=extents,
    )


def commit() -> Request:
    """A durable commit of one extent that was allocated before."""
    return Request(prefix="", suffix="", terminator="\0", bad='"error"', commits=True)


def lookup() -> Request:
    """The key of one extent, anywhere among those there are."""
    return Request(
        prefix='{"method":"io.bcached.Allocator.Lookup","parameters":{"inode":{inode},"offset":',
        suffix=f',"sectors":{EXTENT_SECTORS}' + "}}\0",
        terminator="\0",
        bad='"error"',
        shuffled=True,
    )


def get() -> Request:
    """The value of one key, anywhere among those there are: see bench.stores."""
    return Request(
        prefix="*2\r\n$3\r\nGET\r\n$8\r\n", suffix="\r\n", terminator="v\r\n", bad="-", shuffled=True
    )


def set_value() -> Request:
    """A value as long as a key of ours on the device, under its number; `{inode}` keeps connections apart."""
    return Request(
        prefix="*3\r\n$3\r\nSET\r\n$11\r\n{inode}:",
        suffix=f"\r\n${VALUE_BYTES}\r\n{'v' * VALUE_BYTES}\r\n",
        terminator="\r\n",
        bad="-",
    )


def incrby() -> Request:
    """A bump of one counter: the least that can be called an allocation."""
    command = f"*3\r\n$6\r\nINCRBY\r\n$6\r\nsector\r\n$1\r\n{EXTENT_SECTORS}\r\n"
    return Request(prefix=command, suffix="", terminator="\r\n", bad="-", numbered=False)


def lua(sha: str) -> Request:
    """The same allocation as a script in Redis; arguments as allocate.lua wants them."""
    arguments = ["EVALSHA", sha, "1", "set", "{inode}", "{inode}", str(BUCKET_SECTORS), str(EXTENT_SECTORS)]
    # An inode here has two digits, as its placeholder has not.
    lengths = [2 if it == "{inode}" else len(it) for it in arguments]
    body = "".join(f"${length}\r\n{it}\r\n" for length, it in zip(lengths, arguments, strict=True))
    return Request(prefix=f"*9\r\n{body}$8\r\n", suffix="\r\n", terminator="\r\n", bad="-")
