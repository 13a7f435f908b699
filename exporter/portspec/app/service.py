"""The running exporter: its parts, and how they are replaced when the configuration changes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from portspec import __version__, log
from portspec.app.ahead import render_ahead
from portspec.app.feeds import FeedReader
from portspec.app.hosts import hosts_of, own_targets
from portspec.app.maintenance import Maintenance
from portspec.app.publishing import Publishing
from portspec.app.rulings import RulingLog
from portspec.app.servicemanager import ServiceManager
from portspec.app.supervisor import Supervisor
from portspec.app.watch import WatchedFile, warn_of_others, warn_of_restart
from portspec.app.watchdog import Watchdog
from portspec.audit.agent_key import AgentKey, AgentKeyError
from portspec.audit.service import AuditService
from portspec.config import load_again
from portspec.errors import ConfigError, NoThreadError
from portspec.inventory import MAX_LOOKUPS, Shard, targets
from portspec.inventory.discovery import Discovery
from portspec.limit import Limit
from portspec.metrics import AuditStatus, Exposition, ServiceStatus
from portspec.names import canonical
from portspec.notify import RUNBOOKS, Links, Mailer, MailerState, discard_queued_mails
from portspec.schedule.monitor import Monitor
from portspec.schedule.on_demand import MAX_CONCURRENT_PROBES, Prober
from portspec.store import Store, exporter_state_file, publish_location
from portspec.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from portspec.app.engines import Engines
    from portspec.app.hosts import Hosts
    from portspec.app.watchdog import Watched
    from portspec.config import Config, HostConfig, MailConfig
    from portspec.inventory import AuditedHost, Target
    from portspec.schedule.transition import Transition
    from portspec.state.changes import DatedVerdict
    from portspec.state.snapshot import HostState, Snapshot
    from portspec.store import Change

DISCOVERY_START_TIMEOUT = 5.0  # seconds to wait for the sources of discovery before the first round
CONFIG_POLL_INTERVAL = 30.0  # seconds between checks for a changed conf.yml
RELOAD_REST = 4.0  # times the duration of a reload before the next one begins: it slows down scrapes
STATES_PER_TURN = 100  # states passed on before the event loop gets its turn

_log = log.get("app")


class Service:
    """What runs behind the web server: monitor, store, discovery and prober, under the present configuration.

    An `external_url` of the command line has precedence over that of conf.yml, which is checked for changes every
    `poll_interval` seconds.
    """

    def __init__(
        self,
        config: Config,
        engines: Engines,
        shard: Shard,
        manager: ServiceManager | None = None,
        *,
        external_url: str | None = None,
        poll_interval: float = CONFIG_POLL_INTERVAL,
    ) -> None:
        self._config = self._begun_by = config
        self._external_url = external_url
        self._manager = manager or ServiceManager({})
        self._engines = engines
        self._shard = shard
        self._loaded_at, self._is_good = time.time(), True
        self._asked_by = ""  # who wants the next reload
        self._is_ready = False
        self._is_reload_wanted = False
        self._file = WatchedFile(config.path)
        self._poll_interval = poll_interval
        self._probes = Limit(MAX_CONCURRENT_PROBES)
        self._turn = asyncio.Lock()
        self._next_reload: asyncio.Task[str | None] | None = None  # which has not begun
        self._reload_after = 0.0  # seconds of the event loop's clock
        self._tasks: asyncio.TaskGroup | None = None
        self._discovering: asyncio.Task[None] | None = None
        self._discovery = Discovery(config.discovery)
        self._prober: Prober | None = None
        self._mailer: Mailer | None = None
        self._mail_memory = MailerState()
        self._mailing: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # once it runs
        self.store = Store(
            exporter_state_file(config),
            history=config.history,
            config=config.path,
            shard=f"{shard.index}/{shard.count}" if shard.count > 1 else "",
            on_takeover=self._on_takeover,
        )
        self.maintenance = Maintenance(self.store, self._renew_hosts)
        self.rulings = RulingLog(self.store)
        self.audits = AuditService(self.store, scanned=lambda: self._monitor.snapshot.hosts)
        self.feeds = FeedReader(self.store, self.audits.prioritize)
        self.agent_key = AgentKey.beside(self.store.path)
        self._supervisor = Supervisor()
        self._publishing = Publishing(lambda: self.snapshot, self.store, self._supervisor)
        self._watched: list[Watched] = [engines, self.store]
        self._watchdog = Watchdog(self._manager, self._watched)
        self.exposition = Exposition(lambda: self.snapshot, lambda: self.status, series_budget=config.series_budget)

    def open(self) -> None:
        """Open the state file while privileges last, and restore the states of the hosts of conf.yml."""
        known = self.store.open(own_targets(targets(self._config), self._shard))
        self.maintenance.restore()
        if not publish_location(self._config, self.store.path, is_sharded=self._shard.count > 1):
            _log.warning(
                "`portspec receive` and `report` may not find the state file: set `state` in conf.yml",
                file=self.store.path,
            )
        hosts = self._hosts_of(self._config, (), known)
        self._prober, self._names = hosts.prober, hosts.names
        self.store.former_names = hosts.former_names
        self._apply_audit(self._config, hosts.roster)
        self._monitor = Monitor(
            hosts.targets,
            self._engines.examiner(self._config),
            places=self._config.parallelscans + MAX_LOOKUPS,
            recheck=self._config.recheck,
            restored=known,
            on_state=self._on_state,
        )
        self._watched.append(self._monitor)
        self._engines.canaries.on_return = self._monitor.look_at_unbelieved
        self._set_mailer(self._config.mail)

    async def start(self) -> None:
        """Start to write the state, take up the last audits, and ask the sources of hosts for the first time."""
        self._loop = asyncio.get_running_loop()
        self.store.start()
        self.feeds.apply(self._config.feeds, self._config.priorities)
        await in_daemon_thread(self.feeds.restore)
        await self.audits.restore()
        if self._config.audit:
            try:
                await in_daemon_thread(self.agent_key.make)
            except (AgentKeyError, NoThreadError) as error:
                _log.error("the agent is served without a signature", why=str(error))
        if self._config.discovery:
            try:
                async with asyncio.timeout(DISCOVERY_START_TIMEOUT):
                    await self._discovery.refresh_all()
            except TimeoutError:
                _log.warning("some sources of discovery have not answered yet; their hosts are scanned once they have")
            await self._take_discovered()

    async def run(self) -> None:
        """Scan, discover and watch conf.yml until cancelled. Raises PartFailedError if a vital part keeps failing."""
        watching = partial(self._file.watch, self._poll_interval, self._on_changed_file)
        keep, keep_thread = self._supervisor.keep, self._supervisor.keep_thread
        async with self._supervisor.group() as self._tasks:
            self._discover()
            for part, engine in self._engines.threads():
                self._tasks.create_task(keep_thread(part, engine))
            self._tasks.create_task(keep_thread("state file", self.store))
            self._tasks.create_task(keep("scheduler", self._monitor.run, is_vital=True))
            self._tasks.create_task(keep("watchdog", self._watchdog.run, is_vital=True))
            self._tasks.create_task(keep("maintenance", self.maintenance.run))
            self._tasks.create_task(keep("change log", self.rulings.run))
            self._tasks.create_task(keep("audits", self.audits.run))
            self._tasks.create_task(keep("feeds", self.feeds.run))
            self._tasks.create_task(keep("configuration", watching))
            self._tasks.create_task(keep("rendering", partial(render_ahead, self.exposition, lambda: self.snapshot)))
            self._set_mailer(self._config.mail)
            self._publishing.apply(self._config, self._tasks)
            if self._is_reload_wanted:
                self.reload_soon()

    @property
    def hanging(self) -> tuple[str, ...]:
        """The parts that hang, and that only a restart helps."""
        return tuple(hang.part for hang in self._watchdog.hangs if hang.is_vital)

    def tell(self) -> None:
        """Log the start, and notify the service manager."""
        _log.info(
            "portspec started",
            version=__version__,
            config=self._config.path,
            hosts=len(self.snapshot.hosts),
            engine=self._engines.scanner.name,
            parallelscans=self._config.parallelscans,
            state=self.store.path,
            **({"shard": f"{self._shard.index}/{self._shard.count}"} if self._shard.count > 1 else {}),
        )
        self._note()
        self._manager.ready(self._count())

    def _count(self) -> str:
        hosts = len(self.snapshot.hosts)
        return f"{hosts:,} host{'' if hosts == 1 else 's'}"

    def _note(self, by: str = "") -> None:
        """Tell of the configuration that is in force now, by whom it was changed, and who else could."""
        self.rulings.note(self._config, by)
        warn_of_others(self._config, self.store.path)

    @property
    def snapshot(self) -> Snapshot:
        """The state of all hosts now."""
        return replace(self._monitor.snapshot, audits=self.audits.states, unread=self.audits.unread_hosts)

    @property
    def is_ready(self) -> bool:
        """True once every host was scanned; it stays true when hosts are added."""
        self._is_ready = self._is_ready or self.snapshot.is_complete
        return self._is_ready

    async def reload(self, by: str = "") -> str | None:
        """Reload conf.yml, as `by` asks; if it is invalid keep the previous configuration, and return the message.

        All who ask while a reload is in progress, or in the pause after it, share the next one.
        """
        self._asked_by = by or self._asked_by
        if self._next_reload is None:
            create_task = self._tasks.create_task if self._tasks else asyncio.create_task
            self._next_reload = create_task(self._reload_in_turn())
        return await asyncio.shield(self._next_reload)  # who asks may go

    async def _reload_in_turn(self) -> str | None:
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(self._reload_after - clock())
        async with self._turn:
            self._next_reload = None
            self._manager.reloading()
            begun = clock()
            by, self._asked_by = self._asked_by, ""
            message = await self._reload()
            if message is None:
                self._note(by)
            self._reload_after = clock() + RELOAD_REST * (clock() - begun)
            self._manager.ready(self._count() if message is None else f"the last reload failed: {message}")
            return message

    async def _reload(self) -> str | None:
        path = self._config.path
        try:
            await self._file.look()
            await self._go_on_by(await in_daemon_thread(lambda: load_again(path)))
        except ConfigError as error:
            self._is_good = False
            for line in error.lines():
                _log.error("reload failed; keeping the previous configuration", problem=line)
            return str(error)
        except NoThreadError as error:
            self._is_good = False
            self._file.forget()  # so that the next look at the file makes up for it
            _log.error("reload failed", config=path, why=str(error))
            return f"{path}: reload failed: {error}"
        except Exception as error:  # noqa: BLE001 - the exporter goes on whatever a reload comes to
            self._is_good = False
            _log.exception("reload failed", config=path)
            return f"{path}: reload failed: {error}"
        self._loaded_at, self._is_good = time.time(), True
        _log.info("configuration reloaded", config=path, hosts=len(self.snapshot.hosts))
        return None

    def reload_soon(self) -> None:
        """Reload in the background; during the start, once that is over."""
        if self._tasks:
            self._tasks.create_task(self.reload())
        else:
            self._is_reload_wanted = True

    def scan_now(self, host: str) -> bool:
        """Start a scan of a host, KeyError if it is not scanned here; False if one is on its way already."""
        return self._monitor.scan_now(self.find(host).host)

    def find(self, host: str) -> HostState:
        """Return the state of a host, however its name is spelled; KeyError if it is not scanned here."""
        try:
            return self.snapshot.hosts[self._names[canonical(host)]]
        except ValueError:
            raise KeyError(host) from None

    @property
    def prober(self) -> Prober:
        """What answers /probe. Raises RuntimeError before open()."""
        if self._prober is None:
            raise RuntimeError("the service is not open")
        return self._prober

    async def changes(
        self, *, host: str | None, since: float | None, until: float | None, before_id: int | None, limit: int
    ) -> tuple[tuple[int, Change], ...]:
        """Return rows of the change log, newest first; StoreError if it cannot be read."""
        names = self._names

        def read() -> tuple[tuple[int, Change], ...]:
            rows = self.store.changes(host=host, since=since, until=until, before_id=before_id, limit=limit)
            return tuple((number, replace(row, host=names.get(row.host, row.host))) for number, row in rows)

        return await in_daemon_thread(read)

    async def verdicts(self, host: str, *, limit: int) -> tuple[DatedVerdict, ...]:
        """Return the verdicts of a host, each since when it held, newest first; StoreError if they cannot be read."""
        return await in_daemon_thread(lambda: self.store.verdicts(host, limit=limit))

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._config

    @property
    def status(self) -> ServiceStatus:
        """The state of the exporter itself."""
        audits, audit = self.audits, self._config.audit
        return ServiceStatus(
            engine=self._engines.scanner.name,
            config_loaded_at=self._loaded_at,
            config_is_good=self._is_good,
            is_ready=self.is_ready,
            shard=self._shard,
            store=self.store.status,
            sources=self._discovery.stats,
            mail=self._mailer.status if self._mailer else None,
            audit=AuditStatus(audits.received, audits.rejected, audit.max_age, audits.unread, audits.time_to_fix)
            if audit
            else None,
            reportfile=self._publishing.file_status,
            feeds=self.feeds.status,
            canary_seen=self._engines.canaries.is_seen,
            restarts=self._supervisor.restarts,
            failing=self._supervisor.down.union(hang.part for hang in self._watchdog.hangs),
        )

    async def _go_on_by(self, config: Config) -> None:
        """Build what another configuration needs, then switch to it."""
        await in_daemon_thread(lambda: warn_of_restart(self._begun_by, config, self.store.path))
        discovery = self._discovery
        if config.discovery != self._config.discovery:
            discovery = Discovery(config.discovery, before=discovery)
            await discovery.refresh_all()
        hosts, transition = await self._prepared(config, discovery)
        examiner = self._engines.examiner(config)
        # The switch: from here on nothing awaits, and nothing fails.
        self._config, self._prober, self._names = config, hosts.prober, hosts.names
        self._engines.tune(config)
        self.exposition.series_budget = config.series_budget
        self.store.history = config.history
        self._set_mailer(config.mail)
        self._apply_audit(config, hosts.roster)
        self.feeds.apply(config.feeds, config.priorities)
        if self._tasks:
            self._publishing.apply(config, self._tasks)
        self._monitor.switch(transition, examiner, places=config.parallelscans + MAX_LOOKUPS, recheck=config.recheck)
        if discovery is not self._discovery:
            self._discovery = discovery
            self._discover()

    async def _prepared(self, config: Config, discovery: Discovery) -> tuple[Hosts, Transition]:
        """Return the hosts of a configuration, and the monitor's transition to them. Raises NoThreadError."""
        discovered = discovery.hosts

        def prepare() -> tuple[Hosts, dict[str, str], dict[str, HostState], Transition]:
            states = self._monitor.snapshot.hosts
            hosts = self._hosts_of(config, discovered, states)
            continued = hosts.continued(self._names, states)
            known = {host: states[before] for host, before in continued.items()}
            return hosts, continued, known, self._monitor.prepare(hosts.targets, hosts.restored.states | known)

        hosts, continued, known, transition = await in_daemon_thread(prepare)
        present = self._monitor.snapshot.hosts
        if any(present[before] is not known[host] for host, before in continued.items()):  # a scan ended meanwhile
            known = {host: present[before] for host, before in continued.items()}
            transition = self._monitor.prepare(hosts.targets, hosts.restored.states | known)
        for host, before in continued.items():
            self.store.carry_notification_state(before, host)
        self.store.former_names = hosts.former_names
        self.store.retain(hosts.names.keys())
        return hosts, transition

    def _apply_audit(self, config: Config, roster: Mapping[str, AuditedHost]) -> None:
        self.audits.apply(config.audit, roster)
        if config.audit:
            self.store.audit_history = config.audit.keep

    def _on_state(self, before: HostState, after: HostState) -> None:
        (self._mailer.on_state if self._mailer else self.store.put)(before, after)

    def _set_mailer(self, mail: MailConfig | None) -> None:
        """Apply mail settings; mails in progress are in the outbox."""
        if mail != (self._mailer.mail if self._mailer else None):
            self._mailer = self._new_mailer(mail) if mail and mail.mode != "off" else None
            if self._mailing:
                self._mailing.cancel()
                self._mailing = None
        if self._tasks and self._mailing is None:
            self._mailing = self._tasks.create_task(
                self._supervisor.keep("mailer", self._mailer.run)
                if self._mailer
                else self._supervisor.attempt("mailer", discard_queued_mails(self.store, self._mail_memory))
            )

    def _new_mailer(self, mail: MailConfig) -> Mailer:
        monitor = self._monitor
        is_bare = mail.tls == "none"
        (_log.warning if is_bare else _log.info)(
            "mails are sent WITHOUT TLS: anyone on the network path can read them" if is_bare else "mails are sent",
            server=mail.server,
            port=mail.port,
            recipients=len(mail.recipients),
            **({"only_without": mail.alertmanager} if mail.mode == "fallback" else {}),
        )
        return Mailer(
            mail,
            self.store,
            under_way=lambda: monitor.under_way,
            states=lambda: monitor.snapshot.hosts,
            audit=self.audits.find,
            links=self._links,
            memory=self._mail_memory,
        )

    def _links(self) -> Links:
        return Links(self._external_url or self._config.external_url, self._config.runbook_url or RUNBOOKS)

    def _hosts_of(self, config: Config, discovered: Sequence[HostConfig], present: Container[str]) -> Hosts:
        """Return the targets and what is known of them; states of `present` hosts are not restored from the file."""
        return hosts_of(
            config, discovered, present, self._shard, self.maintenance.windows, self.store, self._new_prober
        )

    def _on_takeover(self, newer: Sequence[HostState]) -> None:
        """Continue from what another exporter wrote to the state file; called in the writer thread."""
        if self._loop:
            with contextlib.suppress(RuntimeError):  # it is closed
                self._loop.call_soon_threadsafe(self._take_over, newer)

    def _take_over(self, newer: Sequence[HostState]) -> None:
        self._monitor.adopt(newer)
        if self._tasks:
            self._tasks.create_task(self._supervisor.attempt("mailer", self._tell_again()))

    async def _tell_again(self) -> None:
        """Notify recipients of what the exporter that wrote the state file until now has not sent."""
        await self.maintenance.look()  # which it may have begun or ended
        for number, host in enumerate(tuple(self.snapshot.hosts), 1):
            if number % STATES_PER_TURN == 0:
                await asyncio.sleep(0)
            if (state := self._monitor.snapshot.hosts.get(host)) and state.latest:
                self._on_state(state, state)

    def _new_prober(self, config: Config, every: Sequence[Target]) -> Prober:
        examiners = {name: self._engines.examiner(config, engine=name) for name in ("auto", "connect")}
        return Prober(config, every, examiners, engine=self._engines.scanner.name, places=self._probes)

    def _discover(self) -> None:
        """Start to poll the current sources on their intervals, and stop polling the previous ones."""
        if self._discovering:
            self._discovering.cancel()
        if self._tasks and self._config.discovery:
            polling = partial(self._discovery.run, self._on_discovery)
            self._discovering = self._tasks.create_task(self._supervisor.keep("discovery", polling))

    def _on_discovery(self) -> None:
        if self._tasks:
            self._tasks.create_task(self._take_discovered())

    async def _take_discovered(self) -> None:
        try:
            await self._renew_hosts()
        except NoThreadError:  # is logged already
            asyncio.get_running_loop().call_later(self._poll_interval, self._on_discovery)
        except Exception:  # noqa: BLE001 - the current hosts are still scanned
            _log.exception("applying the discovered hosts failed")

    async def _renew_hosts(self) -> None:
        """Go on with the hosts of the same configuration: others are discovered, or are under maintenance."""
        async with self._turn:
            hosts, transition = await self._prepared(self._config, self._discovery)
            self._prober, self._names = hosts.prober, hosts.names
            self.audits.apply(self._config.audit, hosts.roster)
            self._monitor.switch(transition)

    async def _on_changed_file(self) -> None:
        if self._config.autoreload:
            _log.info("the configuration has changed", config=self._config.path)
            await self.reload()
