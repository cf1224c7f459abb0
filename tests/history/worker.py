# SPDX-License-Identifier: GPL-2.0-only
"""One of many processes on a cache: random calls, each recorded.

python -m history.worker SPECIFICATION       a JSON object of the fields of Task
"""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from bcached.client import Cache
from bcached.errors import BcachedError, ConnectionLost, NoSuchVolume
from history.plants import planted
from history.record import ALL_NAMES, NUMBER_BITS, Flag, Kind, Log, Outcome
from history.storage import direct_writes
from history.value import HEAD, token_of, value_of

PATIENCE_S = 120.0  # for a daemon that is being restarted
PAUSE_S = 0.02  # after a call without a connection: the next attempt is not made at once
HOT_NAMES = 12  # half of all calls are for these
ADDED_NAMES = 3  # half of all additions and deletions
SIZES = (HEAD.size, 100, 700, 3000, 4096, 20_000, 90_000)
SIZE_WEIGHTS = (10, 40, 30, 20, 10, 4, 1)
MANY = 4
TICK = 500  # calls between two reports of progress


@dataclass(frozen=True)
class Task:
    """What a worker is to do."""

    path: str
    label: str
    volume: int  # a number for the values, not the inode
    prefix: str  # of the names
    names: int
    worker: int
    calls: int
    seed: int
    log: str
    progress: int  # a descriptor
    plant: str = ""
    direct_writes: bool = False


class Worker:
    """Makes calls until it has made enough."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.log = Log(Path(task.log), task.calls + MANY)
        self._random = Random(task.seed)
        self._token = task.worker << NUMBER_BITS
        self._cache = self._connected()
        self._labels = [f"{task.prefix}{number}" for number in range(task.names)]
        self.refusals: Counter[str] = Counter()
        self._reread = 0

    def _connected(self) -> Cache:
        return Cache(self.task.path, self.task.label, patience_s=PATIENCE_S)

    def run(self) -> None:
        """Make the calls; the last one waits for all that was stored."""
        deeds: dict[Callable[[], None], int] = {
            self._get: 600,
            self._get_many: 40,
            self._set: 90,
            self._set_and_wait: 90,
            self._set_durably: 4,
            self._add: 50,
            self._delete: 40,
            self._pop: 10,
            self._touch: 10,
            self._flush: 2,
        }
        reported = 0
        while self.log.count < self.task.calls:
            for deed in self._random.choices([*deeds], [*deeds.values()], k=64):
                with self._surviving():
                    deed()
                if self.log.count >= self.task.calls:
                    break
            while self.log.count >= reported + TICK:
                reported += TICK
                os.write(self.task.progress, b".")
        with self._surviving():
            self._cache.flush(durable=False)
        self._close()

    @contextmanager
    def _surviving(self) -> Any:
        """A refusal or a lost connection leaves the call without an outcome; without a volume begin again."""
        try:
            yield
        except NoSuchVolume:
            self._close()
            self._cache = self._connected()
        except ConnectionLost:
            time.sleep(PAUSE_S)
        except BcachedError as error:
            self.refusals[type(error).__name__] += 1

    def _close(self) -> None:
        self._reread += self._cache.stats().pages_reread
        with suppress(BcachedError):
            self._cache.close()

    @property
    def pages_reread(self) -> int:
        """Returns how many objects only a direct read showed, in closed caches."""
        return self._reread

    def _name(self, hot: int = HOT_NAMES) -> int:
        among = hot if self._random.random() < 0.5 else self.task.names
        return int(self._random.random() * among)

    def _value(self, name: int) -> bytes:
        self._token += 1
        (length,) = self._random.choices(SIZES, SIZE_WEIGHTS)
        return value_of(self._token, name, self.task.volume, length)

    # Reading

    def _get(self) -> None:
        name = self._name()
        at = self.log.begin(Kind.GET, name)
        found = self._cache.get(self._labels[name])
        self.log.end_read(at, token_of(found, name, self.task.volume))

    def _get_many(self) -> None:
        names = [self._name() for _ in range(MANY)]
        at = [self.log.begin(Kind.GET, name) for name in names]
        found = self._cache.get_many([self._labels[name] for name in names])
        for one, name in zip(at, names, strict=True):
            self.log.end_read(one, token_of(found.get(self._labels[name]), name, self.task.volume))

    # Storing

    def _set(self) -> None:
        self._store(0)

    def _set_and_wait(self) -> None:
        self._store(Flag.WAITED, wait=True)

    def _set_durably(self) -> None:
        self._store(Flag.WAITED | Flag.DURABLE, durable=True)

    def _store(self, flags: int, **options: bool) -> None:
        name = self._name()
        value = self._value(name)
        at = self.log.begin(Kind.SET, name, self._token, flags)
        self._cache.set(self._labels[name], value, **options)
        self.log.end(at, Outcome.DONE)

    def _add(self) -> None:
        name = self._name(ADDED_NAMES)
        value = self._value(name)
        at = self.log.begin(Kind.ADD, name, self._token, Flag.WAITED)
        has_won = self._cache.add(self._labels[name], value)
        self.log.end(at, Outcome.DONE if has_won else Outcome.NOT)

    def _touch(self) -> None:
        name = self._name()
        at = self.log.begin(Kind.TOUCH, name)
        self._cache.touch(self._labels[name], expire=self._random.choice((None, 3600.0)))
        self.log.end(at, Outcome.DONE)

    # Dropping, and the cache itself

    def _delete(self) -> None:
        name = self._name(ADDED_NAMES)
        at = self.log.begin(Kind.DELETE, name, 0, Flag.WAITED)
        self._cache.delete(self._labels[name])
        self.log.end(at, Outcome.DONE)

    def _pop(self) -> None:
        name = self._name()
        dropping = self.log.begin(Kind.DELETE, name, 0, Flag.WAITED)
        at = self.log.begin(Kind.GET, name)
        found = self._cache.pop(self._labels[name])
        self.log.end_read(at, token_of(found, name, self.task.volume))
        self.log.end(dropping, Outcome.NOT if found is None else Outcome.DONE)

    def _flush(self) -> None:
        if self._random.random() < 0.02:
            at = self.log.begin(Kind.DELETE, ALL_NAMES, 0, Flag.WAITED)
            self._cache.clear()
        else:
            at = self.log.begin(Kind.FLUSH, 0, 0, Flag.WAITED | Flag.DURABLE)
            self._cache.flush()
        self.log.end(at, Outcome.DONE)


def main(arguments: Sequence[str]) -> None:
    """Run a task; prints how many objects only a direct read showed, and which refusals there were."""
    task = Task(**json.loads(arguments[0]))
    with planted(task.plant), direct_writes() if task.direct_writes else nullcontext():
        worker = Worker(task)
        worker.run()
    json.dump({"pages_reread": worker.pages_reread, "refusals": worker.refusals}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
