"""The exporter as a process: start, signals, stop."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from portspec import log
from portspec.app.engines import drop_privileges, open_engines
from portspec.app.loopguard import LoopGuard
from portspec.app.service import Service
from portspec.app.servicemanager import ServiceManager, control_socket
from portspec.threads import computed, in_daemon_thread
from portspec.web import Gate, WebServer, inherited, parse_listen_address

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from portspec.config import Config
    from portspec.inventory import Shard

# Allocations before a collection of generation 0, and collections before one of generations 1 and 2. States of hosts
# come and go by the ten thousand, without cycles. A collection blocks every thread, of generation 1 for 1 ms for each
# thousand objects that came since the last one: often a few, and rarely all.
GC_THRESHOLDS = (4_000, 3, 400)
# Seconds. The event loop gives the GIL away with each system call, and waits this long to get it back from a thread
# that writes a page: 200 clients that hang up at once delay a scrape by 0.12 s, with 0.001 by 0.43 s (benchmarks).
GIL_SWITCH_INTERVAL = 0.0001

_log = log.get("app")


@dataclass(frozen=True, slots=True)
class WebOptions:
    """The options of the command line that are about HTTP; `external_url` has precedence over that of conf.yml."""

    listen_addresses: tuple[str, ...]
    is_socket_activated: bool = False
    config_file: str | None = None
    external_url: str | None = None


async def serve(config: Config, shard: Shard, options: WebOptions) -> None:
    """Run the exporter until SIGTERM or SIGINT.

    Raises ListenError when it cannot listen, UsageError for an address that is none, ConfigError if the web
    configuration file is not valid, and PartFailedError when a part fails again and again.
    """
    sys.setswitchinterval(GIL_SWITCH_INTERVAL)
    gc.set_threshold(*GC_THRESHOLDS)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _on_signal, number, stop)
    given = inherited(os.environ) if options.is_socket_activated else ()
    listeners = () if given else [parse_listen_address(address) for address in options.listen_addresses]
    gate = Gate.open(options.config_file, listeners, external_url=options.external_url or config.external_url)
    with open_engines(config) as engines:
        manager = ServiceManager(os.environ)
        service = Service(config, engines, shard, manager, external_url=options.external_url)
        loop.add_signal_handler(signal.SIGHUP, service.reload_soon)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # one that came before conf.yml was read reloads it
        ready = asyncio.Event()
        server = WebServer(
            service, listeners, gate=gate, inherited=given, ready=ready, control=control_socket(os.environ)
        )
        opened: asyncio.Future[None] | None = None
        try:
            urls = await server.start()
            # Its thread keeps the rights that opening the file may take, as root in another user's directory.
            opened = in_daemon_thread(service.open)
            drop_privileges()
            await _run_until(stop, _serve(service, opened, urls, ready, gate, guards_loop=manager.watchdog is None))
        finally:
            _ignore_hang_up()
            manager.tell("STOPPING=1")
            engines.close()
            await server.stop()
            if opened is None or opened.done():  # else its thread is at the file, and nothing was written yet
                service.store.close()
    _log.info("portspec stopped")


async def _serve(
    service: Service,
    opened: asyncio.Future[None],
    urls: Sequence[str],
    ready: asyncio.Event,
    gate: Gate,
    *,
    guards_loop: bool,
) -> None:
    await asyncio.shield(opened)
    await service.start()
    await computed(lambda: service.exposition.write(accept_encoding="gzip"))  # so that no scrape takes long
    ready.set()
    service.tell()
    for url in urls:
        _log.info("listening", url=url)
    names = asyncio.create_task(gate.learn_names())  # a name server may be slow
    guard = LoopGuard() if guards_loop else None  # its thread has none of the privileges that were dropped
    if guard:
        guard.start()
    try:
        await service.run()
    finally:
        names.cancel()
        if guard:
            guard.stop()


def _on_signal(number: signal.Signals, stop: asyncio.Event) -> None:
    _log.info("stopping", signal=number.name)
    _ignore_hang_up()
    stop.set()


def _ignore_hang_up() -> None:
    """Ignore SIGHUP while stopping, also after the event loop and its handlers are gone."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})


async def _run_until(stop: asyncio.Event, forever: Coroutine[None, None, None]) -> None:
    """Run a coroutine that should not end until `stop` is set; if it fails, so does this."""
    running = asyncio.create_task(forever)
    waiting = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
    finally:
        waiting.cancel()
        running.cancel()
        await asyncio.gather(running, waiting, return_exceptions=True)
