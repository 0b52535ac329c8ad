"""A session on a socket: connects to one member after another, moves bytes, keeps the session alive, notices its end.

The only module of `wire` that opens sockets. Not safe for several threads: `Client` puts a lock around it. After a loss
nothing is sent again; what was unanswered is remembered as landed-perhaps or not-sent.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias, assert_never

from zkmig.errors import NotPermitted, Outcome, OutcomeUnknown, Unreachable, ZkmigError
from zkmig.wire import requests as rq
from zkmig.wire.codes import Code, code_name
from zkmig.wire.credential import Credential
from zkmig.wire.faults import ConnectionLost, SessionExpired
from zkmig.wire.replies import Reply
from zkmig.wire.session import Answered, AuthAnswered, Broken, Connected, Expired, Pong, Session, State, WatchEvent
from zkmig.wire.tls import Tls

if TYPE_CHECKING:
    from ssl import SSLContext

    from zkmig.wire.tlsstream import TlsStream

Host = tuple[str, int]
Stream: TypeAlias = "socket.socket | TlsStream"
Submitted = tuple[int, rq.Read | rq.Write | rq.Bulk]  # xid, request

CHECK_STOP_INTERVAL_S: Final = 0.5
RETRY_PAUSE_S: Final = 0.1  # between rounds over the members while none of them takes the session
RECEIVE_BYTES: Final = 1 << 18
IDLE_PART: Final = 1 / 3  # of the session timeout without sending, then a ping (as Java's ClientCnxn does)
SILENCE_TOLD_S: Final = 0.2  # of an answer that is due, before a stop names the server
SILENCE_PART: Final = 2 / 3  # of the session timeout without hearing what is due, then the server is dead


WATCH_EVENTS_MAX: Final = 100_000
"""Watch events that wait to be taken; one more, and all of them are given up, so that no memory fills with them."""


class Link:
    """answers: replies not yet taken, by xid. watch_events: those not yet taken. server: connected to now, or last.
    watch_generation: another one means that watch events were lost, with a connection or because nobody took them.

    check_stop: called at least every 0.5 s while waiting; what it raises passes through. tls: None for plain TCP.
    """

    def __init__(
        self,
        hosts: Sequence[Host],
        auth: Sequence[Credential],
        session: Session,
        connect_timeout_s: float,
        check_stop: Callable[[], None] | None,
        tls: Tls | None = None,
    ) -> None:
        self.session = session
        self.server = hosts[0]
        self.answers: dict[int, Reply] = {}
        self.watch_events: deque[WatchEvent] = deque()
        self.check_stop = check_stop
        self._hosts = tuple(hosts)
        self._next_host = 0
        self._auth = tuple(auth)
        self._auth_answers: list[AuthAnswered] = []
        self._pong_error = 0
        self._connect_timeout_s = connect_timeout_s
        self._tls = tls
        self._context: SSLContext | None = None  # made at the first connect(), from files that may be gone later
        self._socket: Stream | None = None
        self._poll = select.poll()
        self._poll_mask = 0
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._abandoned: set[int] = set()
        self._may_have_landed: set[int] = set()  # writes that a loss left without an answer
        self._loss = "not connected"
        self.watch_generation = 0
        self._is_hopeless = False  # what the peer did, it will do again
        self._last_sent = self._last_heard = self._waiting_since = self._last_check = 0.0
        self._trying: Host | None = None  # while it is being connected to
        _links.add(self)

    # -- requests -----------------------------------------------------------------------------------------------------

    def submit(self, request: rq.Read | rq.Write | rq.Bulk) -> int:
        """Queue a request; its xid. Raises FrameTooLarge, and a loss while nothing of it was sent."""
        if not self.session.waits:
            now = time.monotonic()
            if now - self._last_heard > CHECK_STOP_INTERVAL_S:
                self.pump(0)  # a connection that ended meanwhile is noticed before anything is sent
            self._waiting_since = now
        self.require_connected()
        return self.session.submit(request)

    def abandon(self, submitted: Iterable[Submitted], stop: BaseException) -> None:
        """Nobody will ask for these answers any more. If one is of a write that may yet land, `stop` says so."""
        unanswered = {each.xid: each for each in self.session.unanswered()}
        for xid, _ in submitted:
            if xid in unanswered:
                self._abandoned.add(xid)
                if unanswered[xid].may_have_landed and isinstance(stop, ZkmigError):
                    stop.outcome = Outcome.UNKNOWN
            self.answers.pop(xid, None)
            self._may_have_landed.discard(xid)

    def require_connected(self) -> None:
        """Raise the loss, if there was one."""
        if self.session.state is not State.CONNECTED:
            raise self.loss_error(())

    def loss_error(self, submitted: Iterable[Submitted]) -> ZkmigError:
        """What the loss means for these requests: OutcomeUnknown if a write among them may have landed."""
        for xid, request in submitted:
            if xid in self._may_have_landed:
                return OutcomeUnknown(f"{request.operation} was sent, but {self._loss}", request.path)
        if self.session.state is State.EXPIRED:
            return self.expired_error()
        return ConnectionLost(self._loss, hint="check that the server is running, then try again")

    def expired_error(self) -> SessionExpired:
        """For a session that cannot be taken up again."""
        return SessionExpired(f"the session has {self.session.state.value}", address(self.server), "open a new session")

    # -- time ---------------------------------------------------------------------------------------------------------

    def wait(self, done: Callable[[], bool], timeout_s: float | None = None) -> None:
        """Until `done`, the end of the connection, or the timeout; the session is kept alive meanwhile."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not done() and self._socket is not None:
            limit = min(CHECK_STOP_INTERVAL_S, self.session.timeout_ms / 1000 * IDLE_PART)
            if deadline is not None:
                limit = min(limit, deadline - time.monotonic())
                if limit <= 0:
                    return
            self.pump(limit)
            if not done():
                self.beat()
                self.look_for_stop()

    def beat(self) -> None:
        """A ping when the connection is idle; the end of the connection when the server is dead."""
        session, now = self.session, time.monotonic()
        timeout_s = session.timeout_ms / 1000
        if self._socket is None:
            return
        # Silence counts from when something was due: a process that was stopped itself must not blame the server.
        silence = now - max(self._last_heard, self._waiting_since) if session.waits else 0.0
        if silence >= timeout_s * SILENCE_PART:
            self.lose(f"{address(self.server)} has been silent for {silence:.1f} s")
        elif session.state is State.CONNECTED and now - self._last_sent >= timeout_s * IDLE_PART:
            if not session.waits:
                self._waiting_since = now
            session.ping()
            self._last_sent = now  # even where the network takes nothing: one ping a period
            self.pump(0)

    @property
    def is_quiet(self) -> bool:
        """Whether there is nothing to receive, and no watch event to take."""
        return not self.watch_events and self._socket is not None and not self._poll.poll(0)

    @property
    def readiness(self) -> tuple[int, int]:
        """The socket's number, -1 when the connection is over, and what to poll it for."""
        sock = self._socket
        if sock is None:
            return -1, 0
        return sock.fileno(), select.POLLIN | (select.POLLOUT if self.session.output else 0)

    def look_for_stop(self) -> None:
        """Let the caller's check raise, at its interval; a server that was waited for is named in what it raises."""
        now = time.monotonic()
        if self.check_stop is not None and now - self._last_check >= CHECK_STOP_INTERVAL_S:
            self._last_check = now
            try:
                self.check_stop()
            except ZkmigError as stop:
                if (silent := self.silent()) and not stop.where:
                    stop.what += f" while waiting for {silent}"
                raise

    def silent(self) -> str:
        """The server that owes an answer, and how long it has said nothing; "" where none does, or not for long."""
        owes = self._trying or (self.server if self._socket is not None and self.session.waits else None)
        silence = time.monotonic() - max(self._last_heard, self._waiting_since)
        return f"{address(owes)}, silent for {silence:.1f} s" if owes and silence >= SILENCE_TOLD_S else ""

    # -- bytes --------------------------------------------------------------------------------------------------------

    def pump(self, wait_s: float) -> None:
        """Send what can be sent; receive what is there, waiting up to wait_s for it."""
        sock = self._socket
        if sock is None:
            return
        try:
            if self.session.output:
                self._send(sock)
            mask = select.POLLIN | (select.POLLOUT if self.session.output else 0)
            if mask != self._poll_mask:
                self._poll.modify(sock, mask)
                self._poll_mask = mask
            for _, ready in self._poll.poll(wait_s * 1000):
                if ready & ~select.POLLOUT:
                    self._receive(sock)
                if ready & select.POLLOUT and self._socket is not None:
                    self._send(sock)
        except OSError as error:
            reason = _reason(self._receive_what_is_left(sock) or error)
            if self.session.state is State.CONNECTING:
                self.lose(reason)
            else:
                self.lose(f"the connection to {address(self.server)} was lost: {reason}")

    def _send(self, sock: Stream) -> None:
        output = self.session.output
        with contextlib.suppress(BlockingIOError):
            while output:
                self.session.sent(sock.send(output))
                self._last_sent = time.monotonic()

    def _receive(self, sock: Stream) -> None:
        while self._socket is sock:
            try:
                count = sock.recv_into(self._buffer)
            except BlockingIOError:
                return
            self._last_heard = time.monotonic()
            if count:
                self._take_in(count)
            elif self.session.state is State.CONNECTING:
                tls = "" if self._tls is not None else "a TLS port? then write zks://; or "
                self.lose(f"closed the connection unheard: {tls}not serving, or behind what this session has seen")
            else:
                self.lose(f"{address(self.server)} closed the connection")
            if isinstance(sock, socket.socket) or not sock.pending:
                return  # poll will tell of more

    def _receive_what_is_left(self, sock: Stream) -> OSError | None:
        # Answers that came before a reset are answers all the same; and TLS says why before it ends.
        try:
            while self._socket is not None and (count := sock.recv_into(self._buffer)):
                self._take_in(count)
        except OSError as error:
            if error.errno == errno.EPROTO:
                self._is_hopeless = True
                return error
        return None

    def _take_in(self, count: int) -> None:
        for event in self.session.feed(self._buffer[:count]):
            match event:
                case Answered(_, reply):
                    if reply.xid in self._abandoned:
                        self._abandoned.discard(reply.xid)
                    else:
                        self.answers[reply.xid] = reply
                case WatchEvent():
                    self.watch_events.append(event)
                    if len(self.watch_events) > WATCH_EVENTS_MAX:
                        self.watch_events.clear()
                        self.watch_generation += 1
                case AuthAnswered():
                    self._auth_answers.append(event)
                case Broken(fault):
                    self._is_hopeless = True
                    self.lose(f"{address(self.server)} sent what is no ZooKeeper reply: {fault.what}")
                case Pong():
                    self._pong_error = event.error or self._pong_error
                case Connected() | Expired():
                    pass
                case _:
                    assert_never(event)
        if self.session.state is State.EXPIRED:
            self.lose(f"the session has expired, says {address(self.server)}")

    def lose(self, why: str) -> None:
        """The connection is over, whoever ended it; the session may not be."""
        if self._socket is None:
            return
        self._loss = why
        for each in self.session.end():
            if each.xid not in self._abandoned and each.may_have_landed:
                self._may_have_landed.add(each.xid)
        self._abandoned.clear()
        self._poll.unregister(self._socket)
        self._socket.close()
        self._socket = None

    # -- connecting ---------------------------------------------------------------------------------------------------

    def connect(self, *, patient: bool) -> None:
        """Connect and authenticate at the first member that takes the session; the time is shared among the members.

        Round after round while a server is there, but not ready; patient: also where nobody listens, since a member may
        be starting again.
        """
        if self._tls is not None and self._context is None:
            self._context = self._tls.context()
        deadline = time.monotonic() + self._connect_timeout_s
        reasons: dict[Host, str] = {}
        while True:
            hopeful = patient
            for count in range(len(self._hosts), 0, -1):
                host = self._hosts[self._next_host]
                self._next_host = (self._next_host + 1) % len(self._hosts)
                now = time.monotonic()
                share = now + max(0.0, deadline - now) / count
                self._trying, self._waiting_since = host, now
                try:
                    reason = self._try(host, share)
                finally:
                    self._trying = None
                if not reason:
                    return
                if host not in reasons or time.monotonic() < share:  # that time ran out says less than what was before
                    reasons[host] = reason
                hopeful = hopeful or not self._is_hopeless
            if time.monotonic() + RETRY_PAUSE_S >= deadline or not hopeful:
                told = ", ".join(f"{address(host)} {reason}" for host, reason in reasons.items())
                raise Unreachable(f"no server took the session ({told})", hint="check the addresses and the servers")
            time.sleep(RETRY_PAUSE_S)
            self.look_for_stop()

    def _try(self, host: Host, deadline: float) -> str:
        """Why this member did not take the session, "" if it did."""
        self._is_hopeless = True
        try:
            sock = self._open_socket(host, deadline)
        except OSError as error:
            return _reason(error)
        return "" if self._begin(sock, host, deadline) else self._loss

    def _begin(self, sock: Stream, host: Host, deadline: float) -> bool:
        self._socket, self.server = sock, host
        self._is_hopeless = False
        self._poll.register(sock, select.POLLIN)
        self._poll_mask = select.POLLIN
        self._last_sent = self._last_heard = self._waiting_since = time.monotonic()
        self.watch_generation += 1
        try:
            return self._begin_session(deadline) and self._authenticate(deadline)
        except BaseException:
            self.lose("connecting was given up")
            raise

    def _begin_session(self, deadline: float) -> bool:
        session = self.session
        session.open()
        self._wait_unbeaten(lambda: session.state is not State.CONNECTING, deadline)
        if session.state is State.EXPIRED:
            raise self.expired_error()
        self._lose_unless(session.state is State.CONNECTED, "did not answer in time")
        return self._socket is not None

    def _authenticate(self, deadline: float) -> bool:
        answers = self._auth_answers
        answers.clear()
        self._pong_error = 0
        for credential in self._auth:
            self.session.authenticate(rq.Auth(credential.scheme, credential.secret))
        self.session.ping()  # the first stamp: an answer to connecting carries no zxid
        self._wait_unbeaten(lambda: len(answers) == len(self._auth) and not self.session.pings_unanswered, deadline)
        for answer in answers:
            if answer.error != Code.OK:
                what = f"{answer.scheme} authentication refused: {code_name(answer.error)}"
                raise NotPermitted(what, address(self.server), "check the credentials")
        if self._pong_error == Code.SESSION_CLOSED_REQUIRE_SASL_AUTH:  # enforce.auth.schemes may ask for others, too
            what = "the server closes sessions that do not authenticate as it demands, by SASL as a rule"
            raise NotPermitted(
                what,
                address(self.server),
                "SASL is not supported yet; digest: --auth-file, x509: zks:// and --tls-cert",
            )
        answered = len(answers) == len(self._auth) and not self.session.pings_unanswered
        self._lose_unless(answered, "did not answer the first requests in time")
        return self._socket is not None

    def _lose_unless(self, condition: bool, why: str) -> None:
        if not condition:
            self.lose(why)

    def _wait_unbeaten(self, done: Callable[[], bool], deadline: float) -> None:
        # No pings and no verdict of silence while connecting: the deadline is the limit.
        while not done() and self._socket is not None and (left := deadline - time.monotonic()) > 0:
            self.pump(min(left, CHECK_STOP_INTERVAL_S))
            self.look_for_stop()

    def _open_socket(self, host: Host, deadline: float) -> Stream:
        failure = OSError(errno.EHOSTUNREACH, "has no address")
        try:
            addresses = socket.getaddrinfo(*host, type=socket.SOCK_STREAM)
        except UnicodeError:  # what Python says of a name with an empty or overlong part
            raise OSError(errno.EINVAL, "is no host name") from None
        for family, kind, protocol, _, where in addresses:
            sock = socket.socket(family, kind, protocol)
            try:
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._finish_connecting(sock, sock.connect_ex(where), deadline)
                return sock if self._context is None else self._secure(sock, self._context, host[0], deadline)
            except OSError as error:
                sock.close()
                failure = error
            except BaseException:
                sock.close()
                raise
        raise failure

    def _finish_connecting(self, sock: socket.socket, number: int, deadline: float) -> None:
        while number == errno.EINPROGRESS:
            self._wait_for(sock, select.POLLOUT, deadline, os.strerror(errno.ETIMEDOUT))
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, os.strerror(number))

    def _secure(self, sock: socket.socket, context: SSLContext, host: str, deadline: float) -> TlsStream:
        from zkmig.wire.tlsstream import TlsStream

        assert self._tls is not None
        stream = TlsStream(sock, context, self._tls.name_of(host))
        try:
            while awaited := stream.shake_hands():
                self._wait_for(stream, awaited, deadline, "did not finish the TLS handshake in time")
        except BaseException:
            stream.close()
            raise
        return stream

    def _wait_for(self, sock: Stream, mask: int, deadline: float, too_late: str) -> None:
        poll = select.poll()
        poll.register(sock, mask)
        while (left := deadline - time.monotonic()) > 0:
            if poll.poll(min(left, CHECK_STOP_INTERVAL_S) * 1000):
                return
            self.look_for_stop()
        raise OSError(errno.ETIMEDOUT, too_late)


_links: weakref.WeakSet[Link] = weakref.WeakSet()


def silent_servers() -> list[str]:
    """Those that any session of this process waits for just now, as `Link.silent` tells."""
    with contextlib.suppress(RuntimeError):  # asked by a signal handler, which may interrupt the making of a session
        return list(dict.fromkeys(filter(None, [link.silent() for link in _links])))
    return []


class Pollster:
    """Waits for several links at a time."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._masks: dict[int, int] = {}  # what each socket is polled for

    def ready(self, links: Mapping[int, tuple[int, int]]) -> list[int]:
        """Those on which something has happened, given `readiness` by a number of the caller's choice.

        Waits up to CHECK_STOP_INTERVAL_S; a link that is over counts as ready, since it has that to tell.
        """
        over = [number for number, (descriptor, _) in links.items() if descriptor < 0]
        if over:
            return over
        for descriptor, mask in links.values():
            if self._masks.get(descriptor) != mask:
                self._poll.register(descriptor, mask)
                self._masks[descriptor] = mask
        numbers = {descriptor: number for number, (descriptor, _) in links.items()}
        for descriptor in self._masks.keys() - numbers.keys():
            self._poll.unregister(descriptor)
            del self._masks[descriptor]
        return [numbers[descriptor] for descriptor, _ in self._poll.poll(CHECK_STOP_INTERVAL_S * 1000)]


def address(host: Host) -> str:
    """As an operator would write it."""
    name, port = host
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def addresses_of(host: Host) -> list[Host]:
    """The addresses behind a name, each of which may be another server; the host itself where that cannot be told."""
    try:
        infos = socket.getaddrinfo(*host, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return [host]  # whoever connects says what is wrong
    if any(len(info[4]) > 2 and info[4][-1] for info in infos):
        return [host]  # an address of one interface would lose its zone
    return list(dict.fromkeys((str(info[4][0]), host[1]) for info in infos))


def _reason(error: OSError) -> str:
    text = error.strerror or str(error) or type(error).__name__
    return text[:1].lower() + text[1:]
