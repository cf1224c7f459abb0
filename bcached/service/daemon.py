# SPDX-License-Identifier: GPL-2.0-only
"""The daemon: opens the set, serves it, and closes it cleanly.

Lifetimes nest: devices, the set with its tasks, the socket, the metrics. An error in any of them unwinds all,
and main() turns it into one line and an exit status: 1 for runtime errors and bugs, 2 for wrong usage and for
a configuration that the next start could not use either. A stop takes at most five seconds; what is not done
by then is left to recovery.
"""

import asyncio
import faulthandler
import gc
import math
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing

import uvloop

from bcached.device.claims.claim import be_known_as_daemon
from bcached.device.claims.patience import Patience
from bcached.device.file_device import FileDevice
from bcached.device.heap import trim_heap
from bcached.errors import ConfigError
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.lifetime import running
from bcached.service.command_line import allow_descriptors, parse_arguments
from bcached.service.failures import report, report_unusable
from bcached.service.health import probes_of
from bcached.service.listening_sockets import ListeningSockets
from bcached.service.logs.log import LogHandler, get_logger, log_what_is_not_caught, replace_stderr
from bcached.service.logs.log import finish as finish_logging
from bcached.service.logs.log import start as start_logging
from bcached.service.logs.stream import open_for_fault_handler
from bcached.service.loop_lag import LoopLag
from bcached.service.methods.cache_service import CacheService
from bcached.service.metrics.server import MetricsServer
from bcached.service.metrics.set_metrics import registry
from bcached.service.notify import Notifier
from bcached.service.reload import Reloader
from bcached.service.settings import config
from bcached.service.settings.config import Settings
from bcached.service.settings.set_options import access, prepare_directories, set_options, socket_limits
from bcached.service.socket.socket_server import SocketServer
from bcached.service.statistics import Snapshot
from bcached.service.terminal import Terminal
from bcached.service.watchdog import feed_watchdog

STOP_LIMIT_S = 4.5
FINAL_LOG_S = 0.3  # for stderr, of the half second that is left then
YOUNG_OBJECTS = 10_000  # that trigger Python's garbage collector: a third of a millisecond
EXTENSION_S = 10.0  # while opening: how often the service manager is asked for more time
LOOP_VARIABLE = "BCACHED_LOOP"  # "asyncio" runs without uvloop

log = get_logger(__name__)


class Daemon:
    """One run of the daemon."""

    def __init__(self, settings: Settings, path: str, logs: LogHandler) -> None:
        self.settings = settings
        self.stop_requested = False
        self._logs = logs
        self._notifier = Notifier()
        self._lag = LoopLag()
        self._terminal = Terminal()
        self._reloader = Reloader(settings, path, logs, self._notifier)
        self._stopping = asyncio.Event()
        self._is_serving = False
        self._last_resort: threading.Timer | None = None

    async def run(self) -> None:
        """Open the set, serve it until a stop is requested, close it."""
        self._handle_signals()
        try:
            async with asyncio.TaskGroup() as tasks:
                measuring = tasks.create_task(self._lag.measure())
                reporting = tasks.create_task(self._logs.report_periodically())
                patience = tasks.create_task(self._ask_for_time())
                prepare_directories(self.settings)
                with closing(ListeningSockets.open(self.settings)) as sockets:
                    async with self._set() as cache_set:
                        patience.cancel()
                        await self._serve(cache_set, sockets, tasks)
                measuring.cancel()
                reporting.cancel()
        finally:
            self._ignore_signals()
            if self._last_resort is not None:
                self._last_resort.cancel()

    @asynccontextmanager
    async def _set(self) -> AsyncIterator[CacheSet]:
        """Open the devices and run the set on them."""
        async with AsyncExitStack() as stack:
            devices = []
            # Giving up would only use up the restarts that the service manager permits.
            patience = Patience(math.inf, self._report_wait)
            for path in self.settings.set.devices:
                self._report_progress(f"opening {path}")
                devices.append(await FileDevice.open(path, patience=patience))
                stack.push_async_callback(devices[-1].close)
            options = set_options(self.settings, sum(device.size_bytes for device in devices))
            yield await stack.enter_async_context(
                running(devices, options, self._report_progress, log.warning)
            )

    async def _serve(self, cache_set: CacheSet, sockets: ListeningSockets, tasks: asyncio.TaskGroup) -> None:
        """Serve the socket and the metrics until a stop is requested."""
        service = CacheService(cache_set)
        async with SocketServer(service, access(self.settings), socket_limits(self.settings)) as server:
            metrics = MetricsServer(
                registry(lambda: self._snapshot(cache_set, server)),
                probes_of(cache_set),
                self.settings.set.runtime_directory,
            )
            helpers: list[asyncio.Task[None]] = []
            try:
                status = await self._start_serving(cache_set, sockets, server, metrics)
                feeding = feed_watchdog(self._notifier, self._lag, cache_set.is_healthy, cache_set.explain)
                reloading = self._reloader.run(cache_set, server, status)
                helpers = [tasks.create_task(feeding), tasks.create_task(reloading)]
                self._is_serving = True
                gc.collect()
                trim_heap()
                gc.freeze()  # these objects stay: the collector need not scan them again
                # Requests leave no cyclic garbage; a scan every 700 objects costs 5 % of the CPU time.
                gc.set_threshold(YOUNG_OBJECTS)
                await self._logs.settle()
                self._notifier.ready(status)
                await self._stopping.wait()
            finally:
                self._begin_stop()
                for helper in helpers:
                    helper.cancel()
                sockets.remove_paths()
                server.drain()
                await metrics.close()

    async def _start_serving(
        self, cache_set: CacheSet, sockets: ListeningSockets, server: SocketServer, metrics: MetricsServer
    ) -> str:
        """Start to serve. Logs the addresses; returns the status line for the service manager."""
        for listener in sockets.clients:
            server.listen(listener)
        await metrics.serve(sockets.metrics)
        log.info(
            "serving",
            set=str(cache_set.set_uuid),
            devices=list(self.settings.set.devices),
            sockets=[listener.getsockname() for listener in sockets.clients],
            metrics=metrics.addresses,
        )
        return f"serving set {cache_set.set_uuid}"

    def _snapshot(self, cache_set: CacheSet, server: SocketServer) -> Snapshot:
        return Snapshot(
            cache_set.statistics(),
            server.statistics(),
            self._lag.worst_s,
            dict(self._logs.counts),
            self._logs.limits.held_back,
            self._logs.dropped,
        )

    def _report_progress(self, step: str) -> None:
        self._notifier.status(step)
        log.info("starting", step=step)

    def _report_wait(self, reason: str) -> None:
        self._notifier.status(reason)
        log.warning(reason)

    async def _ask_for_time(self) -> None:
        """Extend the start timeout while the set is opened: it may wait for writers of a previous run."""
        while True:
            self._notifier.need_more_time(2 * EXTENSION_S)
            await asyncio.sleep(EXTENSION_S)

    # Stopping

    def _handle_signals(self) -> None:
        """Have signals handled on the loop.

        Not by loop.add_signal_handler: to remove such a handler restores the default action, if only until
        the next call, and a second SIGTERM in between would end the process in the middle of its last steps.
        SIGWINCH, whose default is to do nothing, gives the loop the descriptor by which any signal wakes it.
        """
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        on_loop = loop.call_soon_threadsafe
        loop.add_signal_handler(signal.SIGWINCH, lambda: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: on_loop(self._stop, signal.Signals(number), task.cancel))
        signal.signal(signal.SIGHUP, lambda *_: on_loop(self._hang_up, task.cancel))

    @staticmethod
    def _ignore_signals() -> None:
        """Everything is closed: a signal that arrives now must not turn a clean exit into a kill."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)

    def _hang_up(self, cancel: Callable[[], object]) -> None:
        """Handle SIGHUP: stop if the terminal is closed, otherwise reload."""
        if self._terminal.is_closed:
            self._stop(signal.SIGHUP, cancel)
        else:
            self._reloader.request()

    def _stop(self, number: signal.Signals, cancel: Callable[[], object]) -> None:
        """Stop, once: a further signal is only logged."""
        if self.stop_requested:
            log.info("stopping already", signal=number.name)
            return
        self.stop_requested = True
        log.info("stopping", signal=number.name)
        self._begin_stop()
        if self._is_serving:
            self._stopping.set()
        else:
            cancel()

    def _begin_stop(self) -> None:
        """Start the timer that ends the process after STOP_LIMIT_S, whatever a device does."""
        if self._last_resort is None:
            self._notifier.stopping()
            self._last_resort = threading.Timer(STOP_LIMIT_S, leave_at_once)
            self._last_resort.daemon = True
            self._last_resort.start()


def leave_at_once() -> None:
    """End the process with work undone: the devices are then as after a crash, for recovery to handle."""
    log.critical("stopping took too long: leaving the rest to recovery", limit_s=STOP_LIMIT_S)
    finish_logging(FINAL_LOG_S)
    os._exit(1)


def main() -> int:
    """Run the bcached command; returns the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the loop handles it: no traceback for early Ctrl-C
    stream = replace_stderr()
    arguments = parse_arguments()
    if not __debug__:
        sys.stderr.write("bcached: cannot run without assertions: leave out python -O\n")
        return 2
    try:
        settings = config.load(arguments.config)
    except ConfigError as error:
        report_unusable(error, starting=not arguments.check_config)
        return 2
    if arguments.check_config:
        return 0 if arguments.quiet else print_config(settings)
    allow_descriptors(settings.limits.connections)
    faulthandler.enable(open_for_fault_handler(stream.fileno()))
    sys.stdout = sys.stderr  # what a library prints must not block either
    be_known_as_daemon()
    logs = start_logging()
    log_what_is_not_caught()
    logs.apply(settings.log.level, settings.log.format)
    status = run(settings, arguments.config, logs)
    logs.finish()
    return status


def print_config(settings: Settings) -> int:
    """Print the settings in effect; returns the exit status."""
    try:
        print(settings.as_toml(), end="", flush=True)  # noqa: T201
    except OSError as error:
        sys.stderr.write(f"bcached: standard output: {error.strerror}\n")
        sys.stdout = None  # Python's own flush at exit would fail, too
        return 1
    return 0


def run(settings: Settings, path: str, logs: LogHandler) -> int:
    """Run the daemon on its loop; returns the exit status."""
    plain = os.environ.get(LOOP_VARIABLE) == "asyncio"
    stop_requested = False

    async def run_daemon() -> None:
        nonlocal stop_requested
        daemon = Daemon(settings, path, logs)
        try:
            await daemon.run()
        finally:
            stop_requested = daemon.stop_requested

    try:
        with asyncio.Runner(
            loop_factory=asyncio.new_event_loop if plain else uvloop.new_event_loop
        ) as runner:
            runner.run(run_daemon())
    except asyncio.CancelledError:
        assert stop_requested
    except Exception as error:
        report(error)
        return 1
    log.info("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
