"""One ZooKeeper server in a process of its own, with the means to hurt it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict

from zkmig.dev.certificates import Certificates, make_certificates
from zkmig.dev.folder import KeptFolder
from zkmig.dev.install import Installation, find_installation
from zkmig.dev.ports import LOOPBACK, pick_ports
from zkmig.errors import Refused, Unreachable

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
PROBE_INTERVAL_S = 0.02
_NOT_SERVING = "is not currently serving requests"  # what a member says to any four-letter word while it has no leader
PROBE_TIMEOUT_S = 5.0  # a busy machine answers late; a server that is down refuses at once
START_TRIES_MAX = 5

# Short sessions, so that expiry can be tested: a server rounds a session's end up to a whole tick.
_TICK_MS = 500
_SESSION_TIMEOUT_MS_MIN = 1_000
_SESSION_TIMEOUT_MS_MAX = 60_000

_JAVA_OPTIONS = (
    "-XX:+UseSerialGC",  # a small heap, and few cores shared with the tests
    "-XX:-UsePerfData",  # else Java leaves a file in /tmp when it is killed
    "-Djava.net.preferIPv4Stack=true",
    "-Dzookeeper.jmx.log4j.disable=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
)

# Releases log through log4j (up to 3.7) or logback, which print much, or complain, unless they find these files.
_LOG_SETTINGS = {
    "log4j.properties": (
        "log4j.rootLogger=WARN, console\n"
        "log4j.appender.console=org.apache.log4j.ConsoleAppender\n"
        "log4j.appender.console.layout=org.apache.log4j.PatternLayout\n"
        "log4j.appender.console.layout.ConversionPattern=%d{HH:mm:ss.SSS} [%t] %p %c - %m%n\n"
    ),
    "logback.xml": (
        '<configuration><appender name="console" class="ch.qos.logback.core.ConsoleAppender">'
        "<encoder><pattern>%d{HH:mm:ss.SSS} [%t] %p %c - %m%n</pattern></encoder></appender>"
        '<root level="WARN"><appender-ref ref="console"/></root></configuration>\n'
    ),
}


class PortTaken(Unreachable):
    """Somebody took a port between its choice and its use."""


class ServerOptions(TypedDict, total=False):
    """Options of `Server`, for what passes them on."""

    heap_mb: int
    jute_maxbuffer: int | None
    extended_types: bool
    config: Mapping[str, str | int] | None
    java_options: Sequence[str]
    installation: Installation | None
    tls: bool | Certificates


class Server:
    """A standalone server on 127.0.0.1 with a temporary data directory.

    A context manager: started on entry; ended, and its folder removed, on exit. The process and the folder also go
    when the Python process ends in any other way. Not for use by several threads at once.

    heap_mb: Java's largest heap; a server keeps its last 500 transactions in memory, so big frames need more.
    jute_maxbuffer: bytes of the largest request, None for the server's default (1,048,575).
    extended_types: admit TTL nodes. config: further lines of zoo.cfg, which win over the built-in ones.
    java_options: further options of the Java program, which win over the built-in ones.
    tls: serve TLS as well, on a port of its own that wants client certificates; True makes an authority and
    certificates in the server's folder.
    """

    def __init__(
        self,
        *,
        heap_mb: int = 512,
        jute_maxbuffer: int | None = None,
        extended_types: bool = False,
        config: Mapping[str, str | int] | None = None,
        java_options: Sequence[str] = (),
        installation: Installation | None = None,
        tls: bool | Certificates = False,
    ) -> None:
        self._installation = installation or find_installation()
        self._java_options = [f"-Xmx{heap_mb}m"]
        if jute_maxbuffer is not None:
            self._java_options.append(f"-Djute.maxbuffer={jute_maxbuffer}")
        if extended_types:
            self._java_options.append("-Dzookeeper.extendedTypesEnabled=true")
        self._java_options += java_options
        self._config = dict(config or {})
        self._folder = KeptFolder()
        self.certificates = make_certificates(self._folder.path) if tls is True else tls or None
        self._tls_port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._is_paused = False
        self._log_offset = 0  # where the present process's part of the log begins
        self._port = 0  # 0 until the first start has chosen one

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- what it is ---------------------------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The client port, the same through restarts. 0 before the first start."""
        return self._port

    @property
    def address(self) -> str:
        """`127.0.0.1:port`."""
        return f"{LOOPBACK}:{self._port}"

    @property
    def hosts(self) -> str:
        """The connect string that clients take. For a single server it is its address."""
        return self.address

    @property
    def tls_hosts(self) -> str:
        """The connect string for TLS; "" where it is not served, or not yet."""
        return f"{LOOPBACK}:{self._tls_port}" if self._tls_port else ""

    @property
    def pid(self) -> int:
        """Process id of the running (or paused) server; Refused when it is down."""
        return self._running().pid

    @property
    def is_running(self) -> bool:
        """Whether the process is there and not paused."""
        return self._is_alive() and not self._is_paused

    @property
    def is_meant_to_run(self) -> bool:
        """Whether it was started and neither stopped nor killed nor paused since, by means of this object."""
        return self._process is not None and not self._is_paused

    @property
    def log_path(self) -> Path:
        """What all processes of this server printed, warnings and worse."""
        return self._folder.path / "server.log"

    @property
    def data_dir(self) -> Path:
        """Where snapshots and transaction logs are (ZooKeeper's dataDir)."""
        return self._folder.path / "data"

    def srvr(self) -> dict[str, str]:
        """The answer to the four-letter word `srvr` as field -> value; {} unless the server serves requests."""
        fields = dict(line.split(": ", 1) for line in self._ask(b"srvr").splitlines() if ": " in line)
        return fields if "Mode" in fields else {}

    def mode(self) -> str:
        """`standalone`, `leader` or `follower`; "" unless the server serves requests."""
        return self.srvr().get("Mode", "")

    def zxid(self) -> int:
        """Number of the last transaction that the server applied; Unreachable unless it serves requests."""
        fields = self.srvr()
        if not fields:
            raise Unreachable("the server does not serve requests", self.address)
        return int(fields["Zxid"], 16)

    # -- its life -----------------------------------------------------------------------------------------------------

    def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start the process and wait until it serves. On the first start a clash of ports leads to another port."""
        for tries_left in reversed(range(START_TRIES_MAX if self._port == 0 else 1)):
            port = self._port or pick_ports(1)[0]
            try:
                self._launch(port, self._tls_port or (pick_ports(1)[0] if self.certificates else 0))
                self.wait_ready(timeout_s)
            except PortTaken:
                self.kill()
                if not tries_left:
                    raise
                self._port = self._tls_port = 0
            else:
                return

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until the server serves requests; Unreachable if it ends before, or after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not (self.mode() and self._is_this_one()):
            self.raise_if_failed()
            if time.monotonic() > deadline:
                raise Unreachable(
                    f"no answer within {timeout_s:g} s", self.address, f"its log ends: {self._complaint()}"
                )
            time.sleep(PROBE_INTERVAL_S)

    def _is_this_one(self) -> bool:
        """Whether it serves still, and is no other server that took the port: that is PortTaken."""
        told = self._ask(b"conf")
        if str(self.data_dir) in told:
            return True
        if told and _NOT_SERVING not in told:
            raise PortTaken("another server answers on this port", self.address, "try again")
        return False  # a member that has just lost its leader

    def restart(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Stop the server if it runs, start it on the same data and port, and wait until it serves."""
        self.stop()
        self.start(timeout_s)

    def stop(self) -> None:
        """End the process as an administrator would (SIGTERM; SIGKILL if that takes too long). Keeps the data."""
        if self._process is not None and self.is_running and self._folder.is_ours:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT_S)
        self.kill()

    def kill(self) -> None:
        """End the process at once (SIGKILL), running or paused. Keeps the data. Nothing if it is down."""
        if self._process is None or not self._folder.is_ours:
            return
        self._process.kill()
        self._process.wait()
        self._process = None
        self._is_paused = False
        self._folder.pid_file.unlink(missing_ok=True)

    def pause(self) -> None:
        """Halt the process (SIGSTOP), and return when it stands still. Its connections stay open and silent."""
        pid = self.pid
        os.kill(pid, signal.SIGSTOP)
        # The signal is on its way when kill() returns; the kernel reports when the last thread has stopped.
        state = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        if state is not None and state.si_code == os.CLD_STOPPED:
            os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG)
            self._is_paused = True
        self.raise_if_failed()

    def unpause(self) -> None:
        """Let a paused process go on (SIGCONT). It may have lost its quorum meanwhile: see `wait_ready`."""
        os.kill(self.pid, signal.SIGCONT)
        self._is_paused = False

    def close(self) -> None:
        """End the process and remove its folder. Again: nothing."""
        self.kill()
        self._folder.close()

    # -- how it starts ------------------------------------------------------------------------------------------------

    def _launch(self, port: int, tls_port: int = 0) -> None:
        """Start the process on `port`, and for TLS on `tls_port`; returns at once."""
        if not self._folder.path.exists():
            raise Refused("this server was closed", self.address, "make another one")
        if self._is_alive():
            raise Refused("the server runs already", self.address, "stop it first")
        self._port, self._tls_port = port, tls_port
        config_path = self._write_config()
        log = self.log_path
        self._log_offset = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                # The shell notes its id and then becomes the Java program: there is no moment in which the keeper
                # could not know of it.
                [
                    "/bin/sh",
                    "-c",
                    'echo $$ >"$0" && exec "$@"',
                    str(self._folder.pid_file),
                    *self._command(config_path),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._folder.path,
                start_new_session=True,  # Ctrl-C in a terminal is for this process, which ends the server in order
            )

    def _command(self, config_path: Path) -> list[str]:
        return [
            self._installation.java,
            *_JAVA_OPTIONS,
            f"-Djava.io.tmpdir={self._folder.path}",
            *self._java_options,
            "-cp",
            f"{self._folder.path}:{self._installation.classpath}",
            "org.apache.zookeeper.server.quorum.QuorumPeerMain",
            str(config_path),
        ]

    def _write_config(self) -> Path:
        settings: dict[str, str | int] = {
            "dataDir": str(self.data_dir),
            "clientPort": self._port,
            "clientPortAddress": LOOPBACK,
            "tickTime": _TICK_MS,
            "initLimit": 20,
            "syncLimit": 10,
            "minSessionTimeout": _SESSION_TIMEOUT_MS_MIN,
            "maxSessionTimeout": _SESSION_TIMEOUT_MS_MAX,
            "maxClientCnxns": 0,
            "admin.enableServer": "false",
            "4lw.commands.whitelist": "srvr,conf",
            "forceSync": "no",  # the data need not outlive the machine
            **self._tls_settings(),
            **self._config,
        }
        self.data_dir.mkdir(exist_ok=True)
        for name, text in _LOG_SETTINGS.items():
            (self._folder.path / name).write_text(text)
        path = self._folder.path / "zoo.cfg"
        path.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        return path

    def _tls_settings(self) -> dict[str, str | int]:
        if self.certificates is None:
            return {}
        return {
            "secureClientPort": self._tls_port,
            "secureClientPortAddress": LOOPBACK,
            "serverCnxnFactory": "org.apache.zookeeper.server.NettyServerCnxnFactory",  # the other knows no TLS
            "ssl.keyStore.location": str(self.certificates.server),
            "ssl.trustStore.location": str(self.certificates.ca),
            "authProvider.x509": "org.apache.zookeeper.server.auth.X509AuthenticationProvider",
        }

    def _ask(self, word: bytes) -> str:
        """The answer to a four-letter word, "" if there is none."""
        try:
            with socket.create_connection((LOOPBACK, self._port), timeout=PROBE_TIMEOUT_S) as probe:
                probe.sendall(word)
                return b"".join(iter(lambda: probe.recv(4096), b"")).decode()
        except OSError:
            return ""

    # -- what went wrong ----------------------------------------------------------------------------------------------

    def _is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise Refused("the server is down", self.address, "start it first")
        return self._process

    def raise_if_failed(self) -> None:
        """Unreachable if the process ended on its own, PortTaken (which is one) if it could not have its port."""
        text = self._log_text()
        if "Address already in use" in text:
            raise PortTaken("somebody took the server's port", self.address, "try again")
        if not self._is_alive():
            raise Unreachable("the server process ended", self.address, f"its log says: {self._complaint()}")

    def _log_text(self) -> str:
        with self.log_path.open("rb") as log:
            log.seek(self._log_offset)
            return log.read().decode(errors="replace")

    def _complaint(self) -> str:
        """What of the log most likely says why: the first error and the last cause under it, else the last line."""
        lines = [line.strip() for line in self._log_text().splitlines() if line.strip()]
        errors = [line for line in lines if "ERROR" in line or "Error:" in line or "Exception" in line]
        causes = [line for line in lines if line.startswith("Caused by: ")]
        return " ".join(errors[:1] + causes[-1:]) or "".join(lines[-1:]) or "nothing"
