"""The examples of docs/readers.md, run as they stand there; only addresses, names and programs are put in.

Method: each block behind an `<!-- example: NAME -->` is taken out of the page. A real epoch in batches is under way
while it runs; a witness stands in for the service, and its diary is held against the server's transaction log.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from kazoo.security import make_digest_acl

from tests.containers import IN_A_CONTAINER, needs_unshare
from tests.managers.scene import Scene
from tests.managers.supervisor import Supervisor
from tests.managers.systemd import NamespacesForbidden, Systemd, why_not
from tests.managers.waiting import wait_for
from tests.program import PROGRAM
from tests.scopes import Site
from tests.torture.managers import child_of
from zkmig.dev import Server
from zkmig.epoch.record import Held

PAGE = Path(__file__).parent.parent / "docs" / "readers.md"
HOSTS = "zk1:2181,zk2:2181"
SERVICE = "/usr/bin/autoscaler --loop"
NOT_STABLE = 75

pytestmark = pytest.mark.timeout(200)


def examples() -> dict[str, str]:
    """Name -> text of the block."""
    return dict(re.findall(r"<!-- example: (\w+) -->\n```\w*\n(.*?)```", PAGE.read_text(), re.DOTALL))


def test_every_example_of_the_page_is_run() -> None:
    """Goal: none can be added without a test. Method: their names occur in this file, and every block has one."""
    page = PAGE.read_text()
    names = examples()
    assert len(names) == len(re.findall(r"^```\w+\n", page, re.MULTILINE)) + len(re.findall(r"-->\n```\n", page))
    source = Path(__file__).read_text()
    assert {name for name in names if f'example("{name}")' not in source} == set()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as one:
        yield one


@pytest.fixture
def scene(server: Server, tmp_path: Path, tree_root: str) -> Iterator[Scene]:
    with Site(server, tree_root) as site:
        yield Scene(site, tmp_path)


@pytest.fixture
def example(scene: Scene) -> Callable[[str], str]:
    """An example, with this test's server, scope and programs put in."""

    def get(name: str) -> str:
        text = examples()[name].replace(HOSTS, scene.site.server.hosts).replace(SERVICE, " ".join(scene.witness()))
        text = text.replace("--scope prod", f"--scope {scene.site.names.scope}").replace("/usr/bin/zkmig", PROGRAM)
        text = text.replace("/app/servers/*", scene.site.path("/*"))
        return re.sub(r"--name \S+", f"--name {scene.service}", text)

    return get


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    if reason := why_not():
        pytest.skip(reason)
    with ExitStack() as stack:
        try:
            one = stack.enter_context(Systemd(tmp_path / "systemd"))
        except NamespacesForbidden as error:
            pytest.skip(str(error))
        yield one


def settings(scene: Scene) -> dict[str, str]:
    """What marks a process of this test. The name is locked in a place of this test."""
    return {**scene.environment, "RUNTIME_DIRECTORY": str(scene.folder / "run")}


def assert_kept_off(scene: Scene) -> None:
    """Nothing is left, and nothing ran while the epoch was open."""
    scene.wait_over()
    assert scene.is_stopped()
    assert scene.faults() == []


# -- a service that knows nothing of epochs ---------------------------------------------------------------------------


def test_the_unit(systemd: Systemd, scene: Scene, example: Callable[[str], str]) -> None:
    """As installed: started, restarted and killed during an epoch, then stopped, which counts as success."""
    marks = "".join(f'Environment="{key}={value}"\n' for key, value in scene.environment.items())
    systemd.add("app.service", example("unit").replace("[Service]\n", f"[Service]\n{marks}"))

    def disturb() -> None:
        systemd.ctl("restart", "app.service")  # returns when the guard has said that it is up
        systemd.ctl("kill", "--signal=KILL", "--kill-whom=main", "app.service")
        wait_for(lambda: systemd.show("app.service", "NRestarts") == "1", lambda: systemd.console)
        wait_for(lambda: "OPEN" in systemd.show("app.service", "StatusText"), lambda: systemd.output("app.service"))

    systemd.ctl("start", "app.service")
    scene.wait_running(lambda _: systemd.output("app.service"))
    scene.migrate({3: disturb})
    scene.wait_running(lambda _: systemd.output("app.service"))
    systemd.ctl("stop", "app.service")
    assert systemd.show("app.service", "Result") == "success"
    assert_kept_off(scene)


def test_the_program_of_supervisord(tmp_path: Path, scene: Scene, example: Callable[[str], str]) -> None:
    head, _, rest = example("supervisor").partition("\n")
    assert head == "[program:autoscaler]"
    marks = ",".join(f'{key}="{value}"' for key, value in settings(scene).items())
    with Supervisor(tmp_path / "supervisor") as supervisor:
        supervisor.add("autoscaler", f"{rest}environment={marks}\n")
        scene.wait_running(lambda _: supervisor.output("autoscaler"))
        scene.migrate({3: lambda: supervisor.ctl("restart", "autoscaler")})
        scene.wait_running(lambda _: supervisor.output("autoscaler"))
        supervisor.ctl("stop", "autoscaler")
        assert_kept_off(scene)


@contextmanager
def container(argv: list[str], scene: Scene, run: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """argv as PID 1: unshare, which ends with its code, and its pid as we see it."""
    environment = {**settings(scene), "RUNTIME_DIRECTORY": str(run)}
    with (scene.folder / "said").open("ab") as said:
        outer = subprocess.Popen(
            [*IN_A_CONTAINER, *argv], env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
    try:
        yield outer, wait_for(lambda: child_of(outer.pid), lambda: said_by(scene))
        outer.wait(60)
    finally:
        outer.kill()
        outer.wait()


def said_by(scene: Scene) -> str:
    """What containers have printed."""
    return (scene.folder / "said").read_text()


@needs_unshare
def test_the_entry_point_of_a_container(scene: Scene, example: Callable[[str], str]) -> None:
    """The first container is killed and cannot say that it has stopped; the second takes over, and is stopped."""
    lines = dict(line.split(" ", 1) for line in example("container").splitlines())
    words: list[str] = [*eval(lines["ENTRYPOINT"]), *scene.witness("--child")]
    assert eval(lines["CMD"]) == SERVICE.replace("/usr/bin/", "").split()
    words[0] = PROGRAM
    words[words.index("--name") + 1] = scene.service
    words[words.index("--scope") + 1] = scene.site.names.scope
    with container(words, scene, scene.folder / "first") as (_, init):
        scene.wait_running(lambda _: said_by(scene))
        os.kill(init, signal.SIGKILL)
    scene.wait_over()
    assert scene.is_stopped() is False
    with container(words, scene, scene.folder / "second") as (outer, init):
        scene.wait_running(lambda _: said_by(scene))
        scene.migrate({})
        scene.wait_running(lambda _: said_by(scene))
        os.kill(init, signal.SIGTERM)
    assert outer.returncode == 128 + signal.SIGTERM
    assert_kept_off(scene)


# -- jobs -------------------------------------------------------------------------------------------------------------


def cron_command(line: str) -> str:
    """What cron hands to the shell."""
    fields = line.strip().split(None, 6)
    assert fields[:6] == ["*/5", "*", "*", "*", "*", "root"]
    assert "%" not in fields[6]  # cron's own sign for the end of a line
    return fields[6]


@pytest.mark.parametrize("name", ["cron", "job"])
def test_a_cron_line_leaves_the_job_out_while_an_epoch_is_open(
    scene: Scene, example: Callable[[str], str], name: str
) -> None:
    bin_folder = scene.folder / "bin"
    bin_folder.mkdir()
    for program, text in (("report", "echo ran"), ("tidy", "echo ran"), ("zkmig", f'exec {PROGRAM} "$@"')):
        (bin_folder / program).write_text(f"#!/bin/sh\n{text}\n")
        (bin_folder / program).chmod(0o755)
    command = cron_command({"cron": example("cron"), "job": example("job")}[name])
    environment = {**settings(scene), "PATH": f"{bin_folder}:/usr/bin:/bin"}

    def run() -> tuple[int, str]:
        ran = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, check=False)
        return ran.returncode, ran.stdout

    seen = [run()]
    scene.migrate({3: lambda: seen.append(run())})
    seen.append(run())
    assert seen == [(0, "ran\n"), (NOT_STABLE, ""), (0, "ran\n")]


def test_the_condition_of_a_unit(systemd: Systemd, scene: Scene, example: Callable[[str], str]) -> None:
    ran = scene.folder / "ran"
    systemd.add("report.service", example("condition").replace("/usr/bin/report", f"/usr/bin/touch {ran}"))
    seen = []

    def run() -> None:
        ran.unlink(missing_ok=True)
        systemd.ctl("start", "report.service")  # left out is not failed
        seen.append(ran.exists())

    run()
    scene.migrate({3: run})
    run()
    assert seen == [True, False, True]


# -- programs that read -----------------------------------------------------------------------------------------------


def test_the_python_service(scene: Scene, example: Callable[[str], str]) -> None:
    """Acts when nothing is under way, not in the midst of an epoch, and not on a tree that has moved too far."""
    names: dict[str, Any] = {}
    text = example("python").replace('"prod"', repr(scene.site.names.scope))
    exec(text, names)
    terminated: list[str] = []

    def act_once() -> bool:
        done: bool = names["act_once"](
            reader, lambda _: [scene.site.path("/n001")], lambda path, token: terminated.append(f"{path} {token > 0}")
        )
        return done

    with names["open_reader"](scene.site.server.hosts) as reader:
        assert act_once()
        seen: list[bool] = []
        scene.migrate({3: lambda: seen.append(act_once())})
        assert seen == [False]
        assert not act_once()  # all of the tree has another value: more than a fifth
        with reader.acting(reader.view(), override="the migration was meant"):
            pass
        assert act_once()
    assert terminated == [f"{scene.site.path('/n001')} True"] * 2


class ShellReader:
    """The script of the page, on this test's server."""

    def __init__(self, scene: Scene, text: str) -> None:
        self._scene = scene
        self.script = scene.folder / "read-znode"
        self.script.write_text(text)
        self.environment = {**scene.environment, "PATH": f"{os.environ['PATH']}:{zk_cli()}"}
        self.interpreter = "sh"

    def run(self, path: str, scope: str = "", hosts: str = "") -> tuple[int, bytes, str]:
        """Code, what it printed, what it said. path: below the root of the scope."""
        site = self._scene.site
        ran = subprocess.run(
            [self.interpreter, self.script, hosts or site.server.hosts, scope or site.names.scope, site.path(path)],
            env=self.environment,
            capture_output=True,
            check=False,
        )
        return ran.returncode, ran.stdout, ran.stderr.decode()

    def read(self, path: str = "/n007", scope: str = "") -> tuple[int, bytes]:
        """Code, and what it printed."""
        code, printed, said = self.run(path, scope)
        assert (said == "") is (code != NOT_STABLE), said
        return code, printed


@pytest.fixture
def shell(scene: Scene, example: Callable[[str], str]) -> ShellReader:
    return ShellReader(scene, example("shell"))


def test_the_reader_in_plain_shell(scene: Scene, shell: ShellReader) -> None:
    """Old data, refused in the midst of an epoch, new data; a hold; no znode, no scope."""
    assert shell.read() == (0, b"old 7 " * 12)
    seen: list[tuple[int, bytes]] = []
    scene.migrate({3: lambda: seen.append(shell.read())})
    assert seen == [(NOT_STABLE, b"")]
    assert shell.read() == (0, b"new 7 " * 12)
    assert shell.read("/nowhere") == (1, b"")
    scene.site.hold(Held("maintenance", "somebody", time.time()))
    assert shell.read() == (NOT_STABLE, b"")
    assert shell.read("/nowhere") == (NOT_STABLE, b"")
    scene.site.hold(None)
    assert shell.read(scope="other") == (NOT_STABLE, b"")


STAT_KEYS = "cZxid ctime mZxid mtime pZxid cversion dataVersion aclVersion ephemeralOwner dataLength numChildren"
STAT = re.sub(r"(\w+) ?", r"\1 = 0x1\n", STAT_KEYS)
"""Shaped as zkCli prints it."""


def test_the_shell_reader_prints_data_exactly_or_refuses(scene: Scene, shell: ShellReader) -> None:
    """Data that looks like what zkCli.sh itself prints, of any bytes; names that have to be quoted."""
    client = scene.site.kazoo
    record = (client.get(scene.site.names.record)[0] or b"").decode()
    exact = {
        "/stat": b"a\nnumChildren = 5\nb",
        "/cut": b"a\ncZxid = 0x1\nb\n",
        "/record": f"x\n{STAT}{record}\n{STAT}{record}\n{STAT}".encode(),
        "/error": f"Node does not exist: {scene.site.path('/error')}".encode(),
        "/text": "\u00e9 \u20ac \U0001f600\r\n\0\n\n".encode(),
        "/empty": b"",
        "/word": b"null",
        "/two words": b"a space",
        "/it's": b"a quote",
        '/a "name"': b"double quotes",
        "/back\\slash": b"-",
    }
    refused = {
        "/binary": bytes(range(256)),
        "/cut off": b"\xe2\x82" * 9,
        "/surrogate": b"\xed\xa0\x80",  # as many bytes as the character that is printed instead
        "/replaced": "\ufffd".encode(),
        '/it\'s "both"': b"-",
        "/\u00e9": b"-",
    }
    for path, data in {**exact, **refused}.items():
        client.create(scene.site.path(path), data)
    assert {path: shell.read(path) for path in exact} == {path: (0, data) for path, data in exact.items()}
    assert {path: shell.read(path) for path in refused} == dict.fromkeys(refused, (NOT_STABLE, b""))
    assert shell.read(f"/n007\nget {scene.site.path('/n007')}") == (NOT_STABLE, b"")  # no second command


def put_before(shell: ShellReader, program: str, before: str = "", after: str = "") -> Path:
    """Have the reader run this in place of a program: shell code before the real one, and what is after it."""
    real = shutil.which(program, path=shell.environment["PATH"])
    folder = shell.script.parent / "before"
    folder.mkdir()
    (folder / program).write_text(f'#!/bin/sh\n{before}\n{real} "$@"{after}\n')
    (folder / program).chmod(0o755)
    shell.environment["PATH"] = f"{folder}:{shell.environment['PATH']}"
    return folder / program


BLOCK = 512  # bytes, to ulimit
LARGE = b"a line of it\n" * 5_000


@pytest.mark.parametrize("program", ["zkCli.sh", "cat", "head", "sh"])
def test_the_shell_reader_prints_all_or_nothing_when_the_disk_is_full(
    scene: Scene, shell: ShellReader, program: str
) -> None:
    """Writes to files are cut short, then fail, for one of its programs or for all of them, at several sizes.

    head writes just the data, cat all that zkCli.sh prints, and zkCli.sh itself nothing that matters.
    """
    scene.site.kazoo.create(scene.site.path("/large"), LARGE)
    whole = len(LARGE) // BLOCK + 1
    needed = {"zkCli.sh": 0, "head": whole}.get(program, whole + 1)
    stand_in = put_before(shell, program, before="trap '' XFSZ; ulimit -f $BLOCKS")
    if program == "sh":
        shell.interpreter = str(stand_in)
    for blocks in (0, 1, whole // 2, whole - 1, whole, whole + 16):
        shell.environment["BLOCKS"] = str(blocks)
        assert shell.read("/large") == ((0, LARGE) if blocks >= needed else (NOT_STABLE, b"")), blocks


@pytest.mark.parametrize("is_cut", [True, False])
def test_the_shell_reader_is_not_deceived_by_data_that_is_cut(scene: Scene, shell: ShellReader, is_cut: bool) -> None:
    """The data has in it what is printed behind data; zkCli.sh ends just there, as if killed."""
    data_of_record, stat = scene.site.kazoo.get(scene.site.names.record)
    record = (data_of_record or b"").decode()
    end = STAT.replace("dataLength = 0x1", "dataLength = 4")
    stamps = STAT.replace("cZxid = 0x1", f"cZxid = {stat.czxid:#x}").replace("mZxid = 0x1", f"mZxid = {stat.mzxid:#x}")
    data = f"part\n{end}{record}\n{stamps}THE REST\n".encode()
    scene.site.kazoo.create(scene.site.path("/forged"), data)
    put_before(shell, "zkCli.sh", after=" | sed '/THE REST/,$d'" if is_cut else "")
    assert shell.read("/forged") == ((NOT_STABLE, b"") if is_cut else (0, data))


def test_the_shell_reader_takes_nothing_else_for_no_such_znode(scene: Scene, shell: ShellReader) -> None:
    """A znode that may not be read, a path that is none, no servers, no zkCli.sh: 75, and it is said why."""
    hidden = scene.site.path("/hidden")
    scene.site.kazoo.create(hidden, b"-", acl=[make_digest_acl("somebody", "else", all=True)])
    code, printed, said = shell.run("/hidden")
    assert (code, printed) == (NOT_STABLE, b"")
    assert "Insufficient permission" in said or "NoAuth" in said, said
    assert shell.read("/n007/") == (NOT_STABLE, b"")
    code, printed, said = shell.run("/n007", hosts="127.0.0.1:1")
    assert (code, printed) == (NOT_STABLE, b"")
    assert "ConnectionLoss" in said
    shell.script.write_text(shell.script.read_text().replace("/usr/share/zookeeper/bin", "/nowhere"))
    shell.environment["PATH"] = "/usr/bin:/bin"
    code, printed, said = shell.run("/n007")
    assert (code, printed) == (NOT_STABLE, b"")
    assert "there is no zkCli.sh on the PATH" in said


def zk_cli() -> Path:
    """Where zkCli.sh is: beside the server that is installed, or where Debian has it."""
    home = os.environ.get("ZOOKEEPER_HOME")
    folders = [Path(home) / "bin"] if home else []
    for folder in [*folders, Path("/usr/share/zookeeper/bin")]:
        if (folder / "zkCli.sh").exists():
            return folder
    pytest.skip("no zkCli.sh")
