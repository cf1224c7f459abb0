# SPDX-License-Identifier: GPL-2.0-only
"""The claims about other sizes and other devices: the kernel goes on with what resize and clone left."""

import json
import lzma
import random
import re
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path

from . import images
from .daemon import DaemonFailed, program
from .images import DATA_OFFSET, SECTOR
from .judge import judge
from .keys import SHAPES, Trial
from .lab import Case, Lab, Outcome
from .ours import made

FULL = Path(__file__).parent.parent / "fixtures/kernel/full-lru.img.xz"
BUCKETS_LEFT = 600
BACKING_BYTES = 8 << 20
HOT = ((0, 3 << 20), (10000, 1 << 20))  # sectors of the data, and bytes
SHAPE_NAMES = ("4k 512", "64k 512")
COUNTS = re.compile(r"[\d,]+ sectors \(\S+\) of dirty data in [\d,]+ buckets")
ENOUGH = re.compile(r"or choose (\S+) or more")


def bcachectl(*arguments: object) -> str:
    """What a verb says that must succeed."""
    done = verb(*arguments)
    if done.returncode != 0:
        raise DaemonFailed(f"bcachectl {' '.join(map(str, arguments))}: {done.stderr}")
    return done.stdout


def verb(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A verb that may fail."""
    command = [program("bcachectl"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def shrink(path: Path, least: str) -> int:
    """Make the image as small as its dirty data lets it be. Returns the sectors of clean data dropped."""
    before = path.read_bytes()
    done = verb("--json", "resize", "--yes", path, least)
    if done.returncode != 0:
        counts, enough = COUNTS.search(done.stderr), ENOUGH.search(done.stderr)
        if counts is None or enough is None or path.read_bytes() != before:
            raise DaemonFailed(f"resize {least}, refused: {done.stderr}")
        return shrink(path, enough[1])
    return int(json.loads(done.stdout)["dropped_sectors"])


def begun(lab: Lab, name: str, what: str) -> Trial:
    """An image that a daemon filled before it was killed."""
    shape = SHAPES[name]
    path = made(lab, f"{what}-{name}", (shape.bucket_bytes, shape.block_bytes, shape.size_bytes))
    trial = Trial(lab.machine, path, shape, random.Random(shape.writes))
    trial.begin(killed=True)
    return trial


def resized(lab: Lab, name: str) -> Outcome:
    """Grown, used by the kernel, shrunk as far as it goes, used by both."""
    trial = begun(lab, name, "resized")
    bcachectl("resize", "--yes", trial.path, trial.shape.size_bytes * 2)
    trial.before_the_kernel(fill=True)
    dropped = shrink(trial.path, str(520 * trial.shape.bucket_bytes))
    trial.before_the_kernel()
    trial.before_the_daemon(200)
    trial.before_the_kernel()
    size = trial.path.stat().st_size
    if size >= trial.shape.size_bytes * 2:
        trial.complaints.append(f"the image has {size} bytes, so nothing was cut off")
    outcome = trial.outcome()
    note = f"{outcome.facts['note']}, {dropped} sectors of clean data dropped"
    return replace(outcome, facts={**outcome.facts, "note": note})


def shrunk_full(lab: Lab) -> Outcome:
    """A set that the kernel filled with clean data loses what is behind the new end, and is sound to both."""
    path = lab.path("shrunk")
    path.write_bytes(lzma.decompress(FULL.read_bytes()))
    dropped = shrink(path, str(BUCKETS_LEFT * images.superblock(path).bucket_bytes))
    first = judge(lab.machine, path, keep_writes=True)
    bcachectl("check", path)
    outcome = Outcome.of(first, judge(lab.machine, path))
    complaints = [] if dropped else ["no clean data was dropped, so this shows less than it should"]
    facts = {**outcome.facts, "note": f"{dropped} sectors of clean data dropped"}
    return replace(outcome, complaints=(*outcome.complaints, *complaints), facts=facts)


def cloned(lab: Lab, name: str) -> Outcome:
    """Copied to a new image, in which the kernel and the daemon find all of it."""
    trial = begun(lab, name, "cloned")
    original, trial.path = trial.path, trial.path.with_suffix(".clone")
    trial.path.unlink(missing_ok=True)
    bcachectl("clone", "--yes", "--verify", original, trial.path)
    original.unlink()
    trial.before_the_kernel(fill=True, cut=True)
    trial.before_the_daemon(trial.shape.writes // 4)
    trial.before_the_kernel()
    return trial.outcome()


def warmed(lab: Lab) -> Outcome:
    """A device of no set is attached and warmed; what is garbled below afterwards is read from the cache."""
    path = made(lab, "warmed")
    data = random.Random(1).randbytes(BACKING_BYTES)
    backing = images.make_backing(path.with_suffix(".backing"), data, bytes(range(16)), path, attached=False)
    ranges = path.with_suffix(".ranges")
    ranges.write_text("".join(f"{first} {length}b\n" for first, length in HOT))
    bcachectl("warm", "--yes", "--attach", path, "--backing", backing, "--ranges", ranges)
    for first, length in HOT:
        images.write_at(backing, DATA_OFFSET * SECTOR + first * SECTOR, bytes(length))
    verdict = judge(lab.machine, path, backing=backing, give=True, hits=True, keep_writes=True)
    outcome = Outcome.of(verdict)
    complaints = () if verdict.given.get("bcache0") == data else ("the data read is not that of the cache",)
    note = "hits {cache_hits}, bypassing {cache_bypass_hits}".format(**verdict.facts)
    again = Outcome.of(judge(lab.machine, path, backing=backing))
    facts = {**outcome.facts, "note": note}
    return Outcome((*outcome.complaints, *again.complaints, *complaints), facts, outcome.log + again.log)


REPLACING = (
    Case("shrunk", "the kernel registers a set full of clean data that was made smaller", shrunk_full),
    Case("warmed", "the kernel attaches a cache that was filled offline, and reads of it hit", warmed),
    *(
        Case(
            f"resized {name}",
            "the kernel finds all data in a set that was made larger, and smaller",
            partial(resized, name=name),
        )
        for name in SHAPE_NAMES
    ),
    *(
        Case(
            f"cloned {name}",
            "the kernel finds all data in a copy on another device",
            partial(cloned, name=name),
        )
        for name in SHAPE_NAMES
    ),
)
