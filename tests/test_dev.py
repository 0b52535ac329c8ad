"""zkmig.dev: servers start, can be hurt, and leave nothing behind, however the process that owns them ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kazoo.exceptions import KazooException

from tests.conftest import KazooClientFactory
from tests.program import PROGRAM
from zkmig.dev import Ensemble, Server, find_installation, server
from zkmig.dev.ports import pick_ports
from zkmig.errors import BadInput, Refused, Unreachable

GONE_TIMEOUT_S = 60.0  # on a busy machine; each is over in a second or two otherwise


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = GONE_TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that is dead but not yet collected by its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# -- one server -------------------------------------------------------------------------------------------------------


def test_a_started_server_serves_a_plain_client(zk: Server, tree_root: str, kazoo_client: KazooClientFactory) -> None:
    """A server is ready when its context is entered: write and read with kazoo, without a retry."""
    client = kazoo_client(zk)
    client.create(tree_root, b"value")
    assert client.get(tree_root)[0] == b"value"
    assert zk.mode() == "standalone"
    assert zk.zxid() >= client.last_zxid > 0
    assert zk.hosts == f"127.0.0.1:{zk.port}"


def test_data_port_and_zxid_survive_kill_and_restart(fresh_zk: Server, kazoo_client: KazooClientFactory) -> None:
    """SIGKILL, then restart: the same address serves the same tree from another process."""
    kazoo_client(fresh_zk).create("/kept", b"value")
    address, pid = fresh_zk.address, fresh_zk.pid
    fresh_zk.kill()
    assert not is_alive(pid)
    assert fresh_zk.mode() == ""
    with pytest.raises(Refused, match="the server is down"):
        _ = fresh_zk.pid
    fresh_zk.restart()
    assert (fresh_zk.address, fresh_zk.pid != pid) == (address, True)
    assert kazoo_client(fresh_zk).get("/kept")[0] == b"value"


def test_a_paused_server_is_silent_until_unpaused(fresh_zk: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGSTOP keeps the process and its port but not its answers; twice, since the second pause must wait as well."""
    for _ in range(2):
        fresh_zk.pause()
        assert Path(f"/proc/{fresh_zk.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        with monkeypatch.context() as impatient:
            impatient.setattr(server, "PROBE_TIMEOUT_S", 0.5)
            assert fresh_zk.mode() == ""
        assert not fresh_zk.is_running
        fresh_zk.unpause()
        fresh_zk.wait_ready()
    fresh_zk.pause()
    fresh_zk.stop()  # must not wait for an orderly end


def test_options_reach_the_server(kazoo_client: KazooClientFactory) -> None:
    """jute.maxbuffer, a line of zoo.cfg and a Java option, each seen from outside; a session of one second expires."""
    with Server(heap_mb=128, jute_maxbuffer=4096, config={"tickTime": 250}, java_options=["-Dzkmig.probe=1"]) as small:
        command_line = Path(f"/proc/{small.pid}/cmdline").read_bytes().split(b"\0")
        assert {b"-Xmx128m", b"-Dzkmig.probe=1"} <= set(command_line)
        assert "tickTime=250" in (small.log_path.parent / "zoo.cfg").read_text()
        client = kazoo_client(small)
        client.create("/under", b"x" * 4000)
        with pytest.raises(KazooException):
            client.create("/over", b"x" * 5000)


def test_a_server_that_cannot_start_says_what_its_log_says() -> None:
    """A setting that ZooKeeper refuses ends in an error with its own words, at once and not after a timeout."""
    begun = time.monotonic()
    with (
        pytest.raises(Unreachable, match=r"the server process ended.*Invalid config.*soon"),
        Server(config={"tickTime": "soon"}),
    ):
        pass
    assert time.monotonic() - begun < server.START_TIMEOUT_S / 2


def test_a_closed_server_cannot_be_started() -> None:
    """close() is final, and may be called twice."""
    closed = Server()
    closed.close()
    closed.close()
    with pytest.raises(Refused, match="was closed"):
        closed.start()


# -- ports ------------------------------------------------------------------------------------------------------------


def test_picked_ports_differ_and_lie_below_outgoing_connections() -> None:
    """Ask for many at once and compare with the kernel's own range."""
    ports = pick_ports(50)
    lowest_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert len(set(ports)) == 50
    assert max(ports) < lowest_outgoing


def test_a_port_that_was_taken_meanwhile_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hand out a port that a listener holds, then a free one: the server ends up on the free one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken, free = listener.getsockname()[1], pick_ports(1)[0]
        offers = iter([[taken], [free]])
        monkeypatch.setattr(server, "pick_ports", lambda count: next(offers)[:count])
        with Server() as moved:
            assert moved.port == free
            assert moved.mode() == "standalone"


def test_another_server_on_the_port_is_not_taken_for_ours(zk: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hand out the port of a running ZooKeeper: it answers the probe at once, and must be told apart."""
    free = pick_ports(1)[0]
    offers = iter([[zk.port], [free]])
    monkeypatch.setattr(server, "pick_ports", lambda count: next(offers)[:count])
    with Server() as moved:
        assert moved.port == free
    assert zk.mode() == "standalone"


def test_a_port_taken_before_a_restart_is_an_error(fresh_zk: Server) -> None:
    """A restart keeps its port or fails: clients hold the address."""
    fresh_zk.kill()
    with socket.create_server(("127.0.0.1", fresh_zk.port)), pytest.raises(Unreachable, match="took the server's port"):
        fresh_zk.restart()


# -- ensembles --------------------------------------------------------------------------------------------------------


def test_an_ensemble_survives_the_kill_of_its_leader(ensemble: Ensemble, kazoo_client: KazooClientFactory) -> None:
    """Write, SIGKILL the leader, wait for another, read elsewhere, bring the old leader back, read there."""
    assert sorted(member.mode() for member in ensemble.members) == ["follower", "follower", "leader"]
    kazoo_client(ensemble).create("/kept", b"value")
    killed = ensemble.leader()
    killed.kill()
    ensemble.wait_ready()
    survivors = [ensemble.leader(), *ensemble.followers()]
    assert len(survivors) == 2
    assert killed not in survivors
    kazoo_client(ensemble.leader()).create("/later", b"")
    killed.restart()
    ensemble.wait_ready()
    for member in ensemble.members:
        client = kazoo_client(member)
        client.sync("/")
        assert client.get("/kept")[0] == b"value"
        assert client.exists("/later")


def test_without_a_quorum_no_member_serves(ensemble: Ensemble) -> None:
    """Kill two of three: the third stops serving, waiting says so, and a second member brings the quorum back."""
    alone, *killed = ensemble.members
    for member in killed:
        member.kill()
    wait_until(lambda: alone.mode() == "", "the last member stops serving")
    with pytest.raises(Unreachable, match=r"no quorum within 0.1 s \(not serving\)"):
        ensemble.wait_ready(timeout_s=0.1)
    with pytest.raises(Unreachable, match="no member leads"):
        ensemble.leader()
    for member in killed:
        member.restart()
    ensemble.wait_ready()


def test_a_member_that_loses_its_leader_is_not_taken_for_another_server(
    ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Method: it has just said that it serves, and then says that it does not, as it does without a quorum."""
    first, second, third = ensemble.members
    first.kill()
    second.kill()
    try:
        deadline = time.monotonic() + 30
        while third.mode():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        monkeypatch.setattr(third, "mode", lambda: "follower")
        with pytest.raises(Unreachable, match="no answer within") as caught:
            third.wait_ready(timeout_s=0.2)
        assert not isinstance(caught.value, server.PortTaken)
    finally:
        monkeypatch.undo()
        first.start()
        second.start()
        ensemble.wait_ready()


def test_an_ensemble_of_one_is_refused() -> None:
    with pytest.raises(BadInput, match="2 to 9 servers"):
        Ensemble(1)


# -- leaving nothing behind -------------------------------------------------------------------------------------------


def start_owner(body: str) -> tuple[subprocess.Popen[str], list[int], list[Path]]:
    """Run `body`, which calls report(servers), in a Python process of its own: the process, Java pids, folders."""
    script = textwrap.dedent("""
        import os, signal, sys, threading
        from zkmig.dev import Ensemble, Server

        # A run that was started in the background has SIGINT ignored, and its children inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)

        def report(*servers):
            print(*(server.pid for server in servers))
            print(*(server.log_path.parent for server in servers), flush=True)

    """) + textwrap.dedent(body)
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pids = [int(pid) for pid in owner.stdout.readline().split()]
    folders = [Path(name) for name in owner.stdout.readline().split()]
    assert pids
    assert all(is_alive(pid) for pid in pids)
    assert all(folder.is_dir() for folder in folders)
    return owner, pids, folders


def assert_nothing_is_left(pids: list[int], folders: list[Path]) -> None:
    wait_until(lambda: not any(map(is_alive, pids)), f"processes {pids} end")
    wait_until(lambda: not any(folder.exists() for folder in folders), f"{folders} are removed")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda how: how.name)
def test_nothing_outlives_an_owner_that_is_killed(how: signal.Signals) -> None:
    """An owner of a server and of a paused one dies by a signal: both Java processes and folders go."""
    owner, pids, folders = start_owner("""
        running, paused = Server(heap_mb=64), Server(heap_mb=64)
        running.start()
        paused.start()
        paused.pause()
        report(running, paused)
        signal.pause()
    """)
    with owner:
        owner.send_signal(how)
    assert_nothing_is_left(pids, folders)


def test_nothing_outlives_a_killed_owner_with_a_forked_child() -> None:
    """A child forked while the server ran holds copies of the owner's pipes: it must not keep the server alive."""
    owner, pids, folders = start_owner("""
        server = Server(heap_mb=64)
        server.start()
        report(server)
        child = os.fork()
        if child:
            print(child, flush=True)
        signal.pause()
    """)
    assert owner.stdout is not None
    forked = int(owner.stdout.readline())
    try:
        with owner:
            owner.kill()
        assert_nothing_is_left(pids, folders)
        assert is_alive(forked)
    finally:
        os.kill(forked, signal.SIGKILL)


def test_a_server_outlives_the_thread_and_the_forked_child_that_used_it() -> None:
    """Started by a thread that ends, and left by a forked child's normal exit: the server must still serve."""
    owner, pids, folders = start_owner("""
        server = Server(heap_mb=64)
        starter = threading.Thread(target=server.start)
        starter.start()
        starter.join()
        child = os.fork()
        if child == 0:
            server.close()
            sys.exit()
        os.waitpid(child, 0)
        server.wait_ready()
        report(server)
        sys.stdin.read()
    """)
    with owner:
        owner.terminate()
    assert_nothing_is_left(pids, folders)


def test_nothing_is_left_by_an_owner_that_forgets_to_close() -> None:
    """The interpreter ends while an ensemble runs."""
    owner, pids, folders = start_owner("""
        three = Ensemble(heap_mb=64)
        three.start()
        report(*three.members)
    """)
    with owner:
        pass
    assert owner.returncode == 0
    assert_nothing_is_left(pids, folders)


def test_a_failed_start_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that is no Java in place of Java: an error, and the temporary directory is as empty as before."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").symlink_to("/bin/false")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    with pytest.raises(Unreachable, match="the server process ended"), Ensemble():
        pass
    assert list((tmp_path / "temporary").iterdir()) == []


# -- finding an installation ------------------------------------------------------------------------------------------

ABSENT = (Path("/nonexistent/zookeeper.jar"),)


def test_no_server_names_every_way_out() -> None:
    with pytest.raises(BadInput, match=r"no ZooKeeper server is installed.*apt-get install.*ZOOKEEPER_HOME") as caught:
        find_installation({"PATH": os.environ["PATH"]}, ABSENT)
    assert caught.value.exit_code == 2


def test_no_java_names_every_way_out(tmp_path: Path) -> None:
    (tmp_path / "zookeeper.jar").touch()
    jars = (tmp_path / "zookeeper.jar",)
    with pytest.raises(BadInput, match=r"no Java runtime.*JAVA_HOME"):
        find_installation({"PATH": str(tmp_path)}, jars)
    with pytest.raises(BadInput, match="no bin/java in it"):
        find_installation({"PATH": os.environ["PATH"], "JAVA_HOME": str(tmp_path)}, jars)


def test_zookeeper_home_boots_and_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder shaped like a release, filled with links to the installed jars, boots a server."""
    library = tmp_path / "lib"
    library.mkdir()
    for jar in find_installation().classpath.split(":"):
        if jar.endswith(".jar"):
            (library / Path(jar).name.replace("zookeeper.jar", "zookeeper-3.8.0.jar")).symlink_to(Path(jar).resolve())
    monkeypatch.setenv("ZOOKEEPER_HOME", str(tmp_path))
    monkeypatch.setenv("ZOOKEEPER_CLASSPATH", "/nonexistent")
    assert find_installation().origin == f"ZOOKEEPER_HOME={tmp_path}"
    with Server() as released:
        assert released.srvr()["Zookeeper version"]


def test_zookeeper_home_without_a_server_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="ZOOKEEPER_HOME must name an unpacked binary release"):
        find_installation({"PATH": os.environ["PATH"], "ZOOKEEPER_HOME": str(tmp_path)})


def test_zookeeper_classpath_is_used_as_it_is(tmp_path: Path) -> None:
    classpath = f"{tmp_path}/*:/nonexistent.jar"
    environ = {"PATH": os.environ["PATH"], "ZOOKEEPER_CLASSPATH": classpath}
    assert find_installation(environ, ABSENT).classpath == classpath
    with pytest.raises(BadInput, match="no part of it exists"):
        find_installation({**environ, "ZOOKEEPER_CLASSPATH": "/nonexistent.jar"})


# -- zkmig dev --------------------------------------------------------------------------------------------------------


def start_command(*arguments: str, environ: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """`zkmig dev` in a process of its own, with pipes for what it prints. environ: set besides this process's own."""
    return subprocess.Popen(
        [PROGRAM, "dev", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | (environ or {}),
    )


def first_line(command: subprocess.Popen[str]) -> str:
    assert command.stdout is not None
    return command.stdout.readline().rstrip("\n")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=lambda how: how.name)
def test_the_command_serves_until_a_signal(how: signal.Signals, kazoo_client: KazooClientFactory) -> None:
    """The address on stdout serves as soon as it is printed; a signal ends all with exit code 0."""
    with start_command() as command:
        address = first_line(command)
        kazoo_client(address).create("/served", b"")
        command.send_signal(how)
        printed, told = command.communicate(timeout=GONE_TIMEOUT_S)
    assert command.returncode == 0
    assert printed == ""
    folder = re.search(r"pid \d+  log (\S+)/server.log", told)
    assert folder
    assert not Path(folder[1]).exists()


def test_the_command_describes_an_ensemble_as_json() -> None:
    """Three servers, one of them the leader; a killed one is named and the rest go on until all are gone: exit 6."""
    with start_command("--servers", "3", "--json") as command:
        described = json.loads(first_line(command))
        servers = described["servers"]
        assert described["hosts"] == ",".join(server["address"] for server in servers)
        assert sorted(server["role"] for server in servers) == ["follower", "follower", "leader"]
        for server in servers:
            assert command.poll() is None
            os.kill(server["pid"], signal.SIGKILL)
        _, told = command.communicate(timeout=GONE_TIMEOUT_S)
    assert all(f"{server['address']}  ended" in told for server in servers)
    assert "all servers ended" in told
    assert command.returncode == 6
    assert_nothing_is_left([server["pid"] for server in servers], [Path(server["log"]).parent for server in servers])


def test_a_signal_before_the_servers_are_up_is_not_success(tmp_path: Path) -> None:
    """A Java that never serves; SIGTERM while the command waits: 143, one line, an empty temporary folder."""
    java, temporary = tmp_path / "bin" / "java", tmp_path / "temporary"
    java.parent.mkdir()
    temporary.mkdir()
    java.write_text("#!/bin/sh\nexec sleep 1000\n")
    java.chmod(0o755)
    with start_command(environ={"JAVA_HOME": str(tmp_path), "TMPDIR": str(temporary)}) as command:
        wait_until(lambda: any(temporary.glob("*/pid")), "a process is started")
        command.terminate()
        _, told = command.communicate(timeout=GONE_TIMEOUT_S)
    assert command.returncode == 143
    assert "stopped by SIGTERM before the servers were up" in told
    assert told.count("\n") == 1
    assert list(temporary.iterdir()) == []


def test_the_command_ends_after_its_timeout() -> None:
    with start_command("--timeout", "0.5") as command:
        assert first_line(command).startswith("127.0.0.1:")
        command.communicate(timeout=GONE_TIMEOUT_S)
    assert command.returncode == 0


@pytest.mark.parametrize("arguments", [["--servers", "0"], ["--servers", "10"], ["--timeout", "0"], ["extra"]])
def test_the_command_refuses_bad_usage(arguments: list[str]) -> None:
    with start_command(*arguments) as command:
        _, told = command.communicate(timeout=GONE_TIMEOUT_S)
    assert command.returncode == 2
    assert told.endswith("see zkmig dev --help\n")
    assert told.count("\n") == 1
