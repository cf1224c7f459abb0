# SPDX-License-Identifier: GPL-2.0-only
"""The claims about other sizes and other devices: the kernel goes on with what resize and clone left."""

import random
import re
import subprocess
from functools import partial
from pathlib import Path

from .daemon import DaemonFailed, program
from .keys import SHAPES, Trial
from .lab import Case, Lab, Outcome
from .ours import made

SHAPE_NAMES = ("4k 512", "64k 512")
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


def shrink(path: Path, least: str) -> str:
    """Make the image as small as its dirty data lets it be. Returns what is said of that."""
    refused = verb("resize", "--yes", path, least)
    if refused.returncode == 0:
        return refused.stdout
    enough = ENOUGH.search(refused.stderr)
    if enough is None:
        raise DaemonFailed(f"resize {least}: {refused.stderr}")
    return bcachectl("resize", "--yes", path, enough[1])


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
    shrink(trial.path, str(520 * trial.shape.bucket_bytes))
    trial.before_the_kernel()
    trial.before_the_daemon(200)
    trial.before_the_kernel()
    size = trial.path.stat().st_size
    if size >= trial.shape.size_bytes * 2:
        trial.complaints.append(f"the image has {size} bytes, so nothing was cut off")
    return trial.outcome()


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


REPLACING = (
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
