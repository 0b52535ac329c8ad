"""The data plane's client: calls and pipelines over one session, safe to use from several threads.

One lock guards the link. A call holds it until its answer is there, and pings meanwhile; between calls a thread pings,
so that a session outlives a long computation. Nothing is retried and nothing reconnects by itself: after a loss every
unanswered request becomes an error that says whether it may have landed, and the owner of the session decides
(`reconnect`). Reads that fail so are safe to repeat; writes are not.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from types import TracebackType
from typing import Final, Self, overload

from zkmig.errors import BadInput
from zkmig.model.acl import Identity
from zkmig.model.stat import Stat
from zkmig.wire import replies as rp
from zkmig.wire import requests as rq
from zkmig.wire.codes import Code
from zkmig.wire.credential import Credential
from zkmig.wire.faults import ConnectionLost
from zkmig.wire.link import IDLE_PART, Host, Link, Submitted, address
from zkmig.wire.pipeline import Pipeline
from zkmig.wire.session import Session, State, WatchEvent
from zkmig.wire.tls import Tls

__all__ = ["Client", "Credential", "probe_frame_limit"]

CLOSE_TIMEOUT_S: Final = 2.0  # how long close() waits for the server to confirm, unless told otherwise


class Client:
    """A session with one of `hosts`, tried in the order given; reconnect() begins with the one after the last.

    zxid_floor: a server that has not yet seen this zxid is passed over, so that no read is older than it.
    session_timeout_ms: asked for; the server may grant another. connect_timeout_s: for connect() and reconnect(), over
    all hosts together. frame_bytes_max: a larger request raises FrameTooLarge before anything is sent.
    check_stop: called at least every 0.5 s while waiting; what it raises ends the call. It must not use the client. If
    a write was then sent and not answered, the outcome of a ZkmigError is set to unknown. tls: None for plain TCP.
    """

    def __init__(
        self,
        hosts: Sequence[Host],
        *,
        auth: Sequence[Credential] = (),
        session_timeout_ms: int = 30_000,
        connect_timeout_s: float = 10.0,
        zxid_floor: int = 0,
        frame_bytes_max: int = rq.FRAME_BYTES_MAX_DEFAULT,
        check_stop: Callable[[], None] | None = None,
        tls: Tls | None = None,
    ) -> None:
        if not hosts:
            raise BadInput("no server given", hint="name one, as host:port")
        for host in hosts:
            if not 0 < host[1] < 65_536:
                raise BadInput("not a port", address(host), "ports are 1 to 65535")
        self._auth = tuple(auth)
        self._tls = tls
        self._timeouts = (session_timeout_ms, connect_timeout_s)
        self._digests = tuple(one.identity for one in auth if one.identity is not None)
        self._session = Session(timeout_ms=session_timeout_ms, zxid_floor=zxid_floor, frame_bytes_max=frame_bytes_max)
        self._link = Link(hosts, auth, self._session, connect_timeout_s, check_stop, tls)
        self._lock = threading.Lock()
        self._heartbeat: threading.Thread | None = None
        self._over = threading.Event()
        self.between: Callable[[], None] | None = None
        """Called now and then by who uses a pipeline or `take`, between two answers; it may make calls of its own."""
        self._has_multi_read: bool | None = None
        self._identities: tuple[Identity, ...] | None = None

    # -- life ---------------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Open a new session and authenticate. Raises Unreachable, NotPermitted if a credential is refused."""
        if self._heartbeat is not None:
            raise RuntimeError("connected before: reconnect() takes the session up again")
        with self._lock:
            self._link.connect(patient=False)
        self._heartbeat = threading.Thread(
            target=_keep_alive, args=(weakref.ref(self), self._over), name="zkmig-heartbeat", daemon=True
        )
        self._heartbeat.start()

    def reconnect(self) -> None:
        """Take the session up again, at any member that has seen all that this client has seen.

        Works after a loss, and drops a connection that still stands. Watches are gone, and every request without an
        answer stays without one. Raises SessionExpired if the session has ended, Unreachable if no member takes it.
        """
        if self._heartbeat is None:
            raise RuntimeError("not connected before: connect() opens the session")
        with self._lock:
            self._link.lose("the connection was dropped in order to reconnect")
            if self._session.state is not State.LOST:
                raise self._link.expired_error()
            self._link.connect(patient=True)

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """End the session, so that its ephemerals go at once; never raises for a connection that is lost.

        timeout_s: how long to wait for the server to confirm; 0 only sends.
        """
        self._over.set()
        if self._heartbeat is not None:
            self._heartbeat.join()
        with self._lock:
            self._link.check_stop = None
            if self._session.state is State.CONNECTED:
                self._session.close()
                self._link.pump(0)
                self._link.wait(lambda: self._session.state is not State.CLOSING, timeout_s)
            self._link.lose("the client was closed")

    def __enter__(self) -> Self:
        if self._heartbeat is None:
            self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def sibling(self, connect_timeout_s: float) -> Client:
        """A further session with the same server and of the same identities, not connected yet.

        Whatever this one has seen, the other sees too.
        """
        session_timeout_ms = self._timeouts[0]
        return Client(
            (self.server,),
            auth=self._auth,
            session_timeout_ms=session_timeout_ms,
            connect_timeout_s=connect_timeout_s,
            zxid_floor=self.last_zxid,
            check_stop=self._link.check_stop,
            tls=self._tls,
        )

    # -- what it is ---------------------------------------------------------------------------------------------------

    @property
    def last_zxid(self) -> int:
        """The newest zxid seen in this session: the floor for a session that must not see less."""
        return self._session.last_zxid

    @property
    def writes_submitted(self) -> int:
        """Writes ever handed in. The leader gives each a zxid, whether it applies or fails."""
        return self._session.writes_submitted

    @property
    def session_id(self) -> int:
        """0 before the first connect()."""
        return self._session.session_id

    @property
    def session_password(self) -> bytes:
        """What the server wants to see when the session is taken up again."""
        return self._session.password

    @property
    def session_timeout_ms(self) -> int:
        """As granted by the server."""
        return self._session.timeout_ms

    @property
    def server(self) -> Host:
        """The member connected to, or last connected to."""
        return self._link.server

    @property
    def tls(self) -> Tls | None:
        """How its connections are secured, None if they are not."""
        return self._tls

    @property
    def watch_generation(self) -> int:
        """Moves when watch events were lost: with a connection, or since too many (100,000) waited to be taken."""
        return self._link.watch_generation

    @property
    def is_quiet(self) -> bool:
        """Whether the connection stands and nothing has arrived that was not taken yet, watch events above all.

        Never waits; False also while another thread uses the client.
        """
        if self._session.state is not State.CONNECTED or not self._lock.acquire(blocking=False):
            return False
        try:
            return self._link.is_quiet
        finally:
            self._lock.release()

    @property
    def is_connected(self) -> bool:
        """Whether the connection stands, as far as is known."""
        return self._session.state is State.CONNECTED

    @property
    def has_multi_read(self) -> bool:
        """Whether the server answers multiRead (3.6 and later). Asked once; a refusal costs one reconnect()."""
        if self._has_multi_read is None:
            reply = self.call_reply(rq.MultiRead((rq.GetData("/"),)))
            self._has_multi_read = reply.error == Code.OK
            self._reconnect_after(reply)
        return self._has_multi_read

    @property
    def identities(self) -> tuple[Identity, ...]:
        """Who the session is, as ACL entries would name it: its digest ids, and what else the server says.

        Asks once by whoAmI (3.7 and later), which knows the address and the super user but only the names of digests;
        an older server leaves the digests alone, and costs one reconnect().
        """
        if self._identities is None:
            reply = self.call_reply(rq.WhoAmI())
            told = reply.result.identities if isinstance(reply.result, rp.IdentitiesResult) else ()
            self._identities = (*self._digests, *(each for each in told if each.scheme != "digest"))
            self._reconnect_after(reply)
        return self._identities

    def _reconnect_after(self, reply: rp.Reply) -> None:
        # A server that does not know an opcode says so and closes the connection (UnimplementedRequestProcessor).
        if reply.error == Code.UNIMPLEMENTED:
            self.reconnect()

    # -- requests -----------------------------------------------------------------------------------------------------

    @overload
    def call(self, request: rq.GetData) -> rp.DataResult: ...
    @overload
    def call(self, request: rq.GetChildren) -> rp.ChildrenResult: ...
    @overload
    def call(self, request: rq.GetChildren2) -> rp.Children2Result: ...
    @overload
    def call(self, request: rq.GetAllChildrenNumber) -> rp.CountResult: ...
    @overload
    def call(self, request: rq.GetAcl) -> rp.AclResult: ...
    @overload
    def call(self, request: rq.Exists | rq.SetData | rq.SetAcl) -> rp.StatResult: ...
    @overload
    def call(self, request: rq.Create | rq.Create2 | rq.CreateContainer | rq.CreateTtl) -> rp.CreateResult: ...
    @overload
    def call(self, request: rq.Multi) -> rp.MultiResult: ...
    @overload
    def call(self, request: rq.MultiRead) -> rp.MultiReadResult: ...
    @overload
    def call(self, request: rq.Sync) -> rp.PathResult: ...
    @overload
    def call(self, request: rq.Delete | rq.AddWatch) -> rp.Done: ...
    @overload
    def call(self, request: rq.WhoAmI) -> rp.IdentitiesResult: ...
    def call(self, request: rq.Read | rq.Write) -> rp.Result:
        """The result of one request.

        Raises ServerError for an error code (also NotPermitted for NoAuth; a failed multi tells which operation by
        `index`), and what call_reply() raises.
        """
        reply = self.call_reply(request)
        error = rp.failure(request, reply)
        if error is not None:
            raise error
        assert reply.result is not None
        return reply.result

    def call_reply(self, request: rq.Read | rq.Write) -> rp.Reply:
        """The reply to one request; an error code stays in it.

        Raises OutcomeUnknown if a write was sent and the connection ended first, else ConnectionLost or SessionExpired
        (both Unreachable, nothing written); FrameTooLarge before anything is sent.
        """
        link = self._link
        with self._lock:
            link.look_for_stop()
            xid = link.submit(request)
            try:
                link.wait(lambda: xid in link.answers)
            except BaseException as stop:
                link.abandon([(xid, request)], stop)
                raise
            reply = link.answers.pop(xid, None)
            if reply is None:
                raise link.loss_error([(xid, request)])
            if reply.error == Code.SESSION_EXPIRED:
                raise link.expired_error()
            return reply

    def exists(self, path: str) -> Stat | None:
        """The Stat of a znode, None if it is not there."""
        request = rq.Exists(path)
        reply = self.call_reply(request)
        error = rp.failure(request, reply)
        if error is not None and error.code != Code.NO_NODE:
            raise error
        return reply.result.stat if isinstance(reply.result, rp.StatResult) else None

    def pipeline(
        self, requests: Iterable[rq.Read | rq.Write], depth: int | Callable[[], int]
    ) -> Generator[rp.Reply, None, None]:
        """Replies in the order of the requests, with at most `depth` requests unanswered; error codes stay in them.

        Requests are pulled as room appears (a quarter of the depth at least), and before the replies that made the
        room are handed out: the server is busy while the caller is. An error (a loss, a frame too large, one raised by
        `requests`) comes after the replies to all that was answered. To leave the loop early abandons what is
        unanswered: it may still land. Other calls may be made between two replies.

        A depth that is a function is asked before each request, and requests are then pulled one at a time, after all
        replies that are there: so they may take their time to come, as long as a heartbeat or longer.
        """
        pipeline = Pipeline(self._link, self._lock, self._pause)
        if not isinstance(depth, int):
            return pipeline.paced_replies(iter(requests), depth)
        if depth < 1:
            raise ValueError("depth is at least 1")
        return pipeline.replies(iter(requests), depth)

    def _pause(self) -> None:
        if self.between is not None:
            self.between()

    def post(self, request: rq.Read | rq.Bulk) -> int:
        """Send a read without waiting for its answer, which `take` gives by the xid returned. Raises the loss."""
        with self._lock:
            xid = self._link.submit(request)
            self._link.pump(0)
            return xid

    def is_answered(self, xid: int) -> bool:
        """Whether `take` would give the answer to this at once."""
        return xid in self._link.answers

    def take(self, posted: deque[Submitted]) -> list[rp.Reply]:
        """The answers that are there to what was posted, oldest first; they leave `posted`. Never waits.

        To be called again and again, for the session lives by it too. Raises ConnectionLost or SessionExpired when no
        more answers will come; what is left in `posted` is without one.
        """
        link, answers = self._link, self._link.answers
        ready: list[rp.Reply] = []
        self._pause()
        with self._lock:
            link.look_for_stop()
            link.pump(0)
            link.beat()
            while posted and posted[0][0] in answers:
                ready.append(answers.pop(posted.popleft()[0]))
            if posted and not ready:
                link.require_connected()
        return ready

    @property
    def readiness(self) -> tuple[int, int]:
        """The socket's number, -1 when the connection is over, and what to poll it for before the next `take`."""
        return self._link.readiness

    def take_watch_events(self, timeout_s: float = 0.0) -> list[WatchEvent]:
        """Watch events in order of arrival, each once; waits up to timeout_s for the first. Raises like a read."""
        link = self._link
        with self._lock:
            link.pump(0)
            link.wait(lambda: bool(link.watch_events), timeout_s)
            events = list(link.watch_events)
            link.watch_events.clear()
            if not events:
                link.require_connected()
            return events

    def watch_events_at_hand(self) -> list[WatchEvent]:
        """Those that were received already, each once. Neither receives nor raises."""
        with self._lock:
            events = list(self._link.watch_events)
            self._link.watch_events.clear()
            return events

    # -- heartbeat ----------------------------------------------------------------------------------------------------

    def _beat_if_free(self) -> float:
        # One look of the heartbeat thread; the time until the next. Where the lock is taken, its holder beats.
        if self._lock.acquire(blocking=False):
            try:
                self._link.pump(0)
                self._link.beat()
            finally:
                self._lock.release()
        return self._session.timeout_ms / 1000 * IDLE_PART / 4


def _keep_alive(reference: weakref.ref[Client], over: threading.Event) -> None:
    # A weak reference: a client that was dropped without close() must not be kept alive by its own heartbeat.
    pause_s = 0.0
    while not over.wait(pause_s):
        client = reference()
        if client is None:
            return
        pause_s = client._beat_if_free()
        del client


def probe_frame_limit(hosts: Sequence[Host], size: int, tls: Tls | None = None) -> bool:
    """Whether a server takes a request of `size` bytes (at least 14), asked on a session of its own.

    The request is an `exists` of a path that long. Give one host to ask that member: jute.maxbuffer is each server's
    own. Raises Unreachable where not even a small request is answered.
    """
    probe = rq.Exists("/" + "a" * (size - rq.frame_size(rq.Exists("/"))))
    with Client(hosts, frame_bytes_max=max(size, rq.FRAME_BYTES_MAX_DEFAULT), tls=tls) as client:
        client.exists("/")
        try:
            client.call_reply(probe)
        except ConnectionLost:
            return False
        return True
