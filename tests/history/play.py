# SPDX-License-Identifier: GPL-2.0-only
"""Plays histories: a daemon on a small set, workers, and mishaps between their calls."""

import dataclasses
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from bcached.client import Cache
from history.record import ALL_NAMES, Flag, Kind, Log, Outcome
from history.rules import Fault, History, Life, rows_of
from history.storage import storage
from history.value import value_of
from history.worker import HOT_NAMES, TICK, Task
from kill.daemon import MortalDaemon

TESTS = Path(__file__).parent.parent
ROUND_CALLS = 400_000  # checked together; the next round has names of its own
SIZE_BYTES = 64 << 20
LABEL = "history"
OWN, FOREIGN = 1, 2  # volumes, as values name them
INVALIDATED = "bcached_bucket_invalidations_total"
LIMIT_S = 300.0  # without any progress: something hangs


@dataclass(frozen=True)
class Plan:
    """What is to be played."""

    calls: int
    seed: int = 1
    workers: int = 4
    names: int = 4000
    mishap_calls: int = 20_000  # between two mishaps; 0 for none
    plant: str = ""
    direct_writes: bool = False
    storage: str = "memory"


@dataclass
class Played:
    """What has happened."""

    calls: int = 0
    faults: list[Fault] = field(default_factory=list)
    mishaps: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    invalidated: int = 0
    pages_reread: int = 0


class Running:
    """A worker's process, and what it is to do."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.process = subprocess.Popen(
            [sys.executable, "-m", "history.worker", json.dumps(dataclasses.asdict(task))],
            cwd=TESTS,
            env={**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
            stdout=subprocess.PIPE,
            pass_fds=(task.progress,),
        )
        self.ended = os.pidfd_open(self.process.pid)

    def finish(self) -> dict[str, Any]:
        """Wait until it has ended; returns what it printed, nothing if it was killed."""
        with self.process as process:
            assert process.stdout is not None
            said = process.stdout.read()
        os.close(self.ended)
        assert process.returncode in (0, -signal.SIGKILL), f"worker {self.task.worker}: {process.returncode}"
        return json.loads(said) if said else {"pages_reread": 0, "refusals": {}}


class Play:
    """One daemon, and rounds of calls on it."""

    def __init__(self, plan: Plan, daemon: MortalDaemon, folder: Path) -> None:
        self.plan = plan
        self.played = Played()
        self._daemon = daemon
        self._folder = folder
        self._random = Random(plan.seed)
        self._lives: list[Life] = []
        self._workers: dict[int, Running] = {}  # by the descriptor that tells its end
        self._logs: dict[int, Path] = {}  # of the round, by worker
        self._next_worker = 1
        self._reading, self._writing = os.pipe()
        self._start()

    def close(self) -> None:
        """Have no process left behind."""
        for one in self._workers.values():
            one.process.kill()
            one.finish()
        self._workers.clear()
        os.close(self._reading)
        os.close(self._writing)

    # The daemon

    def _start(self) -> None:
        self._lives.append(Life(time.monotonic_ns()))
        self._daemon.start()
        assert self._daemon.wait_until_ready_or_dead(), self._daemon.log_text()

    def _end(self, how: signal.Signals) -> None:
        self.played.invalidated += self._invalidated()
        told = time.monotonic_ns()
        if how == signal.SIGKILL:
            self._daemon.kill()
        else:
            assert self._daemon.end(how) == 0, self._daemon.log_text()
        assert not self._daemon.quarrels(), self._daemon.log_text()
        self._lives[-1] = Life(self._lives[-1].began, told, time.monotonic_ns())

    def _invalidated(self) -> int:
        """Returns how many buckets were reclaimed in this life."""
        lines = [line for line in self._daemon.scrape().splitlines() if line.startswith(INVALIDATED)]
        return round(sum(float(line.split()[-1]) for line in lines))

    # A round

    def round(self, calls: int) -> list[Fault]:
        """Play so many calls, and return what is wrong with them."""
        start, number = time.monotonic_ns(), self._next_worker
        self._logs = {0: self._folder / "log 0"}
        own = Log(self._logs[0], 1 + 4 * calls // max(1, self.plan.mishap_calls or calls))
        for _ in range(self.plan.workers):
            self._add_worker(-(-calls // self.plan.workers), prefix=f"{number}/")
        self._watch(own)
        lives = [
            Life(one.began - start, one.told_to_end - start, one.gone - start)
            for one in self._lives
            if one.gone > start
        ]
        logs = {worker: path for worker, path in self._logs.items() if path.exists()}
        rows = [rows_of(path.read_bytes(), worker, start) for worker, path in logs.items()]
        for path in logs.values():
            path.unlink()
        return self._judged(rows, lives)

    def _judged(self, rows: list[Any], lives: list[Life]) -> list[Fault]:
        import numpy as np  # noqa: PLC0415 - workers import this file's neighbours, and do without

        together = np.concatenate(rows)
        self.played.calls += len(together)
        for kind in Kind:
            for outcome in Outcome:
                both = (together["kind"] == kind) & (together["outcome"] == outcome)
                self.played.outcomes[f"{kind.name} {outcome.name}".lower()] += int(both.sum())
        faults = History(together, lives, self.plan.names).faults()
        self.played.faults += faults
        return faults

    def _add_worker(self, calls: int, prefix: str) -> None:
        number, self._next_worker = self._next_worker, self._next_worker + 1
        log = self._logs[number] = self._folder / f"log {number}"
        task = Task(
            path=str(self._daemon.socket_path),
            label=LABEL,
            volume=OWN,
            prefix=prefix,
            names=self.plan.names,
            worker=number,
            calls=calls,
            seed=self._random.getrandbits(32),
            log=str(log),
            progress=self._writing,
            plant=self.plan.plant,
            direct_writes=self.plan.direct_writes,
        )
        running = Running(task)
        self._workers[running.ended] = running

    def _watch(self, own: Log) -> None:
        """Until all workers have ended; a mishap whenever they have made enough calls."""
        done = 0
        next_mishap = self._gap()
        with selectors.DefaultSelector() as selector:
            selector.register(self._reading, selectors.EVENT_READ)
            watched: set[int] = set()
            while self._workers:
                for descriptor in self._workers.keys() - watched:
                    selector.register(descriptor, selectors.EVENT_READ)
                    watched.add(descriptor)
                ready = selector.select(LIMIT_S)
                assert ready, "no worker makes progress"
                for key, _ in ready:
                    if key.fd == self._reading:
                        done += TICK * len(os.read(self._reading, 4096))
                    elif key.fd in self._workers:
                        selector.unregister(key.fd)
                        watched.discard(key.fd)
                        self._count(self._workers.pop(key.fd).finish())
                if self.plan.mishap_calls and done >= next_mishap and self._workers:
                    next_mishap = done + self._gap()
                    gone = self._mishap(own)
                    if gone is not None:
                        selector.unregister(gone)
                        watched.discard(gone)

    def _count(self, said: dict[str, Any]) -> None:
        self.played.pages_reread += said["pages_reread"]
        self.played.refusals.update(said["refusals"])

    def _gap(self) -> int:
        return round(self.plan.mishap_calls * (0.5 + self._random.random()))

    # Mishaps

    def _mishap(self, own: Log) -> int | None:
        """Let one happen; returns the descriptor of a worker that was killed."""
        kinds: dict[Callable[[Log], int | None], int] = {
            self._kill_daemon: 30,
            self._stop_daemon: 5,
            self._kill_worker: 30,
            self._pause_worker: 20,
            self._delete_volume: 10,
            self._collect: 5,
        }
        (mishap,) = self._random.choices([*kinds], [*kinds.values()])
        self.played.mishaps[mishap.__name__.strip("_").replace("_", " ")] += 1
        return mishap(own)

    def _kill_daemon(self, _: Log) -> None:
        self._end(signal.SIGKILL)
        self._start()

    def _stop_daemon(self, _: Log) -> None:
        self._end(signal.SIGTERM)
        self._start()

    def _kill_worker(self, _: Log) -> int:
        """Kill a worker; another one makes the calls that it has not made."""
        running = self._workers.pop(self._random.choice([*self._workers]))
        running.process.kill()
        running.finish()
        left = running.task.calls - _begun(Path(running.task.log))
        if left > 0:
            self._add_worker(left, running.task.prefix)
        return running.ended

    def _pause_worker(self, _: Log) -> None:
        """Stop a worker for a moment, perhaps between a look-up and a read."""
        process = self._random.choice([*self._workers.values()]).process
        process.send_signal(signal.SIGSTOP)
        time.sleep(self._random.random() * 0.2)
        process.send_signal(signal.SIGCONT)

    def _delete_volume(self, own: Log) -> None:
        listed = self._daemon.ask("Admin.ListVolumes")["parameters"]["volumes"]
        for volume in listed:
            if volume["label"] == LABEL:
                at = own.begin(Kind.DELETE, ALL_NAMES, 0, Flag.WAITED)
                self._daemon.ask("Admin.DeleteVolume", inode=volume["inode"], force=True)
                own.end(at, Outcome.DONE)
        self._take_inode()

    def _take_inode(self) -> None:
        """Make another volume with the same names: it must not be taken for the deleted one."""
        with Cache(str(self._daemon.socket_path), f"another {self.played.mishaps.total()}") as another:
            for running in [*self._workers.values()][:1]:
                for name in range(HOT_NAMES):
                    another.set(f"{running.task.prefix}{name}", value_of(1, name, FOREIGN, 100))
            another.flush(durable=False)

    def _collect(self, _: Log) -> None:
        self._daemon.ask("Admin.CollectGarbage", wait=False)


def _begun(log: Path) -> int:
    """Returns how many calls a log has the beginnings of; none if its worker was killed before it had one."""
    import numpy as np  # noqa: PLC0415

    from history.rules import RECORD  # noqa: PLC0415

    if not log.exists():
        return 0
    return int((np.fromfile(log, RECORD)["began"] != 0).sum())


@contextmanager
def playing(plan: Plan) -> Iterator[Play]:
    """A daemon on a fresh set, and no workers yet."""
    with storage(plan.storage, SIZE_BYTES) as where:
        on_device = bool(where) and Path(where).is_block_device()
        devices = [where if on_device else f"{where}/cache.img"] if where else []
        with MortalDaemon(devices=devices) as daemon:
            daemon.make("-b", "64k", *([] if on_device else ["--size", str(SIZE_BYTES)]))
            play = Play(plan, daemon, daemon.folder)
            try:
                yield play
            finally:
                play.close()


def played(plan: Plan, told: Callable[[str], None] = lambda _: None) -> Played:
    """Play all rounds; ends at the first one with faults."""
    began = time.monotonic()
    with playing(plan) as play:
        result = play.played
        while result.calls < plan.calls and not result.faults:
            play.round(min(ROUND_CALLS, plan.calls - result.calls))
            told(f"{result.calls} calls, {time.monotonic() - began:.0f} s, {dict(result.mishaps)}")
        result.invalidated += play._invalidated()
        assert play._daemon.ask("Admin.Verify") == {"parameters": {"violations": []}}
        assert play._daemon.end() == 0, play._daemon.log_text()
    return result
