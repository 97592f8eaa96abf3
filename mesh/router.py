"""The router process: one per host. A thin shell around `core.owner`: sockets in, decisions there, sockets out."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import resource
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final

from mesh import clock, locate, messages, slot_page, transport
from mesh.core.admission import Bounds
from mesh.core.dispatch import Budgets
from mesh.core.effects import Commit, Effect, Fetch, RemovePage, RemoveReplySocket, Send, SendControl, WatchProcess
from mesh.core.identity import Identity
from mesh.core.owner import Arrival, Limits, Owner
from mesh.core.records import Row
from mesh.core.recovery import Pages
from mesh.exceptions import JournalUnavailable, MalformedMessage, MeshError
from mesh.inheritance import inherit
from mesh.journal import Failed
from mesh.settings import Settings
from mesh.version import VERSION

logger = logging.getLogger(__name__)

#: How long a router that is about to exit looks for latecomers.
LAST_LOOK_S: Final = 0.05
#: How long a router that ends waits for its disk.
LAST_COMMITS_S: Final = 10.0
#: Descriptors a router asks for.
DESCRIPTORS: Final = 65_536
#: Rounds of messages that are taken before a death is acted on.
LAST_WORDS: Final = 100
#: Malformed messages logged per peer before the rest is silent.
MALFORMED_LOGGED: Final = 3
#: Peers remembered for that.
MALFORMED_PEERS: Final = 1000
#: How often a router that reads a long journal looks who has come.
LOOK_WHILE_READING_S: Final = 0.1
STARTING: Final = messages.HelloRefused(
    messages.PROTOCOL_MAJOR,
    messages.Code.STARTING,
    "this router is reading its journal; it will answer when it is done",
)
#: Reasons to refuse somebody that are logged; further ones are not.
REFUSALS_LOGGED: Final = 100


class Router:
    """1. Receives. 2. Performs effects. 3. Tells the owner of deaths. 4. Ends when idle or told to."""

    def __init__(self, place: locate.Place, settings: Settings) -> None:
        self._idle_exit_s = settings.router_idle_exit
        self._idle_since_mono_s: float | None = None
        self._stopping = False
        self._context = transport.context()
        self._malformed_from: dict[bytes, int] = {}
        self._refusals_logged: set[str] = set()
        #: Why the journal can't be written; empty while it can.
        self._failing = ""
        self._place = place
        self._bind()
        self._wakeup = transport.Wakeup()
        self._processes = transport.Processes()
        inherited = inherit(place, journaled=settings.journal, notify=self._wakeup.set)
        self._journal = inherited.journal
        identity = Identity(place.mesh, place.directory, inherited.owner_tag, os.urandom(8), os.getpid(), VERSION)
        self._owner = Owner(identity, _limits(settings), _encode_failure)
        #: Effects to be performed, in order.
        self._todo: deque[Effect] = deque()
        self._performing = False
        self._poller = transport.Poller()
        for source in (self._inbox, self._control, self._wakeup.fileno(), self._processes.fileno()):
            self._poller.add(source)
        self._perform: Final[dict[type[Any], Callable[[Any], None]]] = {
            Send: self._send,
            SendControl: self._send_control,
            Commit: self._commit,
            Fetch: self._fetch,
            WatchProcess: self._watch,
            RemoveReplySocket: self._remove_reply_socket,
            RemovePage: self._remove_page,
        }
        self._recover(inherited.pages)

    def _recover(self, pages: Pages) -> None:
        begun_mono_s = clock.mono_s()
        journal = self._journal
        recovered, effects = self._owner.recover(
            self._putting_off(journal.recovered(tasks=False)),
            self._putting_off(journal.recovered(tasks=True)),
            pages,
            clock.now(),
        )
        self._do(effects)
        if journal.skipped:
            logger.error(
                "%d rows of the journal can't be read and were left out; see what they are with: mesh journal check",
                journal.skipped,
                extra={"action": "journal_damaged"},
            )
        if any(recovered):
            logger.info(
                "recovered %d tasks, %d of them running, and %d outcomes in %.1f s; %d may have run and are given up",
                *(recovered.tasks, recovered.running, recovered.outcomes, clock.mono_s() - begun_mono_s),
                recovered.ended,
                extra={"action": "recovered"},
            )

    def _putting_off(self, rows: Iterator[Row]) -> Iterator[Row]:
        """The rows; whoever says HELLO while they are read is told to wait, and not left to give up."""
        look_mono_s = clock.mono_s() + LOOK_WHILE_READING_S
        for row in rows:
            yield row
            if clock.mono_s() >= look_mono_s:
                for door in (self._inbox, self._control):
                    for peer, message, _, _ in door.receive():
                        if type(message) is messages.Hello:
                            door.send(peer, STARTING)
                look_mono_s = clock.mono_s() + LOOK_WHILE_READING_S

    def _bind(self) -> None:
        self._inbox = self._open(locate.inbox_url(self._place))
        self._control = self._open(locate.control_url(self._place))

    def _open(self, url: str) -> transport.Door:
        door = transport.Door(
            self._context, url, on_malformed=lambda peer, error: self._on_malformed(door, peer, error)
        )
        return door

    # --- life ------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serves until it is told to stop or has been idle long enough."""
        while not self._stopping:
            ready = self._poller.wait(self._timeout_s())
            if self._wakeup.fileno() in ready:
                self._wakeup.clear()
            came = self._turn(ready)
            if not came and self._may_exit() and not self._last_look():
                logger.info("idle, leaving", extra={"action": "idle_exit"})
                return

    def stop(self) -> None:
        """Ends `run` soon. Any thread, also a signal handler."""
        self._stopping = True
        self._wakeup.set()

    def heed_signals(self) -> None:
        """A signal's handler runs at once, even if the signal comes right before a wait. Main thread only."""
        self._wakeup.set_on_signals()

    def close(self) -> None:
        """Gives every socket and descriptor back."""
        self._write_the_rest()
        self._journal.close()
        self._inbox.close(linger_ms=200)
        self._control.close(linger_ms=200)
        self._context.term()
        self._processes.close()
        self._wakeup.close()

    def _write_the_rest(self) -> None:
        """Has the journal hold all that has happened; a disk that fails is not waited for."""
        self._do(self._owner.stop(clock.now()))
        give_up_mono_s = clock.mono_s() + LAST_COMMITS_S
        while not self._owner.ledger.is_settled and not self._failing and clock.mono_s() < give_up_mono_s:
            self._poller.wait(LAST_LOOK_S)
            self._wakeup.clear()
            self._take_answers()
            self._do(self._owner.stop(clock.now()))  # what one commit had no room for goes into the next

    def _turn(self, ready: dict[Any, int]) -> bool:
        """One round: everything that is there in, all effects out. Returns whether anything came."""
        self._take_answers()
        batch: list[Arrival] = []
        if self._inbox.socket in ready:
            batch += [Arrival(False, *one) for one in self._inbox.receive()]
        if self._control.socket in ready:
            batch += [Arrival(True, *one) for one in self._control.receive()]
        self._do(self._owner.handle(batch, clock.now()))
        if self._processes.fileno() not in ready:
            return bool(batch)
        # What a process sent before it died is taken first, however much lies before it.
        for _ in range(LAST_WORDS):
            last_words = [Arrival(False, *one) for one in self._inbox.receive()]
            self._do(self._owner.handle(last_words, clock.now()))
            if len(last_words) < transport.DRAIN:
                break
        for pid in self._processes.ended():
            self._process_ended(pid)
        return True

    def _timeout_s(self) -> float | None:
        deadline = self._owner.next_deadline_mono_s()
        now_mono_s = clock.mono_s()
        if self._owner.is_idle() and self._idle_exit_s is not None:
            if self._idle_since_mono_s is None:
                self._idle_since_mono_s = now_mono_s
            leave = self._idle_since_mono_s + self._idle_exit_s
            deadline = leave if deadline is None else min(deadline, leave)
        else:
            self._idle_since_mono_s = None
        return None if deadline is None else max(0.0, deadline - now_mono_s)

    def _may_exit(self) -> bool:
        since, idle_s = self._idle_since_mono_s, self._idle_exit_s
        return since is not None and idle_s is not None and self._owner.is_idle() and clock.mono_s() - since >= idle_s

    def _last_look(self) -> bool:
        """Takes no new peers, and looks once more; whoever came meanwhile is served, and the doors open again."""
        self._inbox.unbind()
        self._control.unbind()
        if not self._turn(self._poller.wait(LAST_LOOK_S)):
            return False
        self._inbox.socket.bind(self._inbox.url)
        self._control.socket.bind(self._control.url)
        self._idle_since_mono_s = None
        return True

    def _take_answers(self) -> None:
        for answer in self._journal.answers():
            if isinstance(answer, Failed):
                self._log_failing(answer.reason)
                self._do(self._owner.commit_failed(answer.number, answer.reason, clock.now()))
            else:
                self._log_failing("")
                self._do(self._owner.committed(answer.number, clock.now()))

    def _log_failing(self, reason: str) -> None:
        """Once when the disk begins to fail, and once when it works again."""
        if reason and reason != self._failing:
            logger.error("%s", reason, extra={"action": "journal_failing"})
        elif self._failing and not reason:
            logger.info("the journal can be written again", extra={"action": "journal_works"})
        self._failing = reason

    # --- effects ---------------------------------------------------------------------------------

    def _do(self, effects: list[Effect]) -> None:
        """Performs effects in order. What comes of performing one is performed behind those that were there before."""
        self._todo.extend(effects)
        if self._performing:
            return
        self._performing = True
        try:
            while self._todo:
                effect = self._todo.popleft()
                self._perform[type(effect)](effect)
        finally:
            self._performing = False

    def _send(self, effect: Send) -> None:
        message = effect.message
        if type(message) is messages.HelloRefused:
            self._log_refusal(message)
        if not self._inbox.send(effect.peer, message, effect.frames) and isinstance(message, messages.Tasks):
            logger.warning("a slot takes no tasks now, they are requeued", extra={"action": "slot_unreachable"})
            self._do(self._owner.undelivered(effect.peer, message, clock.now()))

    def _send_control(self, effect: SendControl) -> None:
        if type(effect.message) is messages.HelloRefused:
            self._log_refusal(effect.message)
        if not self._control.send(effect.peer, effect.message):
            self._do(self._owner.unreachable(effect.peer, clock.now()))

    def _commit(self, effect: Commit) -> None:
        self._journal.append(effect)

    def _fetch(self, effect: Fetch) -> None:
        try:
            records = self._journal.fetch(effect.number)
        except JournalUnavailable as error:
            self._log_failing(str(error))
            self._do(self._owner.not_fetched(effect.number, clock.now()))
            return
        self._do(self._owner.fetched(effect.number, records, clock.now()))

    def _watch(self, effect: WatchProcess) -> None:
        try:
            alive = self._processes.watch(effect.pid)
        except OSError as error:
            # Better a death that goes unseen than a living process that is taken for dead.
            logger.error("process %d can't be watched: %s", effect.pid, error, extra={"action": "unwatched"})
            return
        if not alive:
            self._process_ended(effect.pid)

    def _remove_reply_socket(self, effect: RemoveReplySocket) -> None:
        _remove(locate.reply_path(self._place.directory, effect.incarnation))

    def _remove_page(self, effect: RemovePage) -> None:
        # The path came over the wire: only a page of this mesh is ever removed.
        if locate.is_page(self._place.directory, effect.path):
            _remove(effect.path)

    def _process_ended(self, pid: int) -> None:
        begun = {index: slot_page.begun_of(page, index, pid) for page, index in self._owner.slots_of_pid(pid)}
        self._do(self._owner.process_ended(pid, begun, clock.now()))

    def _log_refusal(self, refused: messages.HelloRefused) -> None:
        """Once for each reason: who is refused asks again many times."""
        if len(self._refusals_logged) < REFUSALS_LOGGED and refused.reason not in self._refusals_logged:
            self._refusals_logged.add(refused.reason)
            logger.warning("refused: %s", refused.reason, extra={"action": "refused", "code": refused.code})

    def _on_malformed(self, door: transport.Door, peer: bytes, error: MalformedMessage) -> None:
        count = self._malformed_from.get(peer, 0) + 1
        if len(self._malformed_from) >= MALFORMED_PEERS:
            self._malformed_from.clear()
        self._malformed_from[peer] = count
        if count <= MALFORMED_LOGGED:
            logger.warning("a message was dropped: %s", error, extra={"action": "malformed", "peer": peer.hex()})
            door.send(peer, messages.Malformed(error.reason))


def _encode_failure(error: MeshError) -> bytes:
    # Imported when the first task is given up: few routers ever need it, and it is a tenth of their memory.
    from mesh.remote_errors import encode_exception

    return encode_exception(error, "")


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _limits(settings: Settings) -> Limits:
    return Limits(
        bounds=Bounds(settings.queue_max_tasks, settings.queue_max_bytes),
        result_expires_s=settings.result_expires,
        results_max_bytes=settings.results_max_bytes,
        budgets=Budgets(settings.crash_budget, settings.lost_budget, settings.queue_max_age),
        resident_max=settings.queue_resident,
        dead_max=settings.dead_letters_max,
        dead_max_bytes=settings.dead_letters_max_bytes,
        journaled=settings.journal,
    )


def _raise_descriptor_limit() -> None:
    """Each peer takes descriptors; the soft limit is made for programs of another kind."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, DESCRIPTORS)), hard))


def run_router(
    place: locate.Place,
    settings: Settings,
    *,
    start_lock_fd: int | None = None,
    on_ready: Callable[[], None] | None = None,
) -> int:
    """Runs the router of a place in this process until SIGTERM, SIGINT or idleness.

    Returns 0, or 1 where one runs already.
    """
    locate.prepare(place)
    lock = locate.acquire_router_lock(place)
    if lock is None:
        logger.error(
            "a router of mesh %r runs already, with pid %s",
            place.mesh,
            locate.router_pid(place),
            extra={"action": "refused"},
        )
        return 1
    _raise_descriptor_limit()
    router = Router(place, settings)
    locate.remove_stale(place)

    def on_signal(number: int, frame: FrameType | None) -> None:
        router.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    router.heed_signals()
    if start_lock_fd is not None:
        locate.release_start_lock(start_lock_fd)
    if on_ready is not None:
        on_ready()
    # What lives now lives for good. Tasks hold no cycles, so collections need not look at a million of them often.
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 20, 1_000)
    try:
        router.run()
    finally:
        router.close()
        locate.release_router_lock(lock)
    return 0


def main(argv: list[str]) -> int:
    """`python -m mesh.router DIRECTORY --mesh NAME [--start-lock-fd N] [--settings JSON]`: one started on demand."""
    options = dict(zip(argv[1::2], argv[2::2], strict=False))
    place = locate.locate(f"mesh://{argv[0]}")
    place = place._replace(mesh=options.get("--mesh", place.mesh))
    fd = options.get("--start-lock-fd")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings = Settings()._replace(**json.loads(options.get("--settings", "{}")))
        return run_router(place, settings, start_lock_fd=None if fd is None else int(fd))
    except MeshError as error:
        logger.error("%s", error, extra={"action": "failed"})
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
