"""`zkmig guard` under service managers that people really use, which start it again whatever happens.

Method: a service that writes down when it runs and what zxid it has seen, under systemd as PID 1 of namespaces of its
own, under supervisord, and under the package management of the demo. While an epoch is open the manager is told to
restart the guard, and the guard is killed. The server's own transaction log tells when that was.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.managers.scene import Scene
from tests.managers.services import Services, UnderPlain, UnderSupervisor, UnderSystemd, unit_text
from tests.managers.systemd import NamespacesForbidden, why_not
from tests.managers.waiting import wait_for
from tests.program import PROGRAM
from tests.scopes import Site
from zkmig.dev import Server

pytestmark = pytest.mark.timeout(240)

WAITING = ": waiting since "  # what a guard says that may not start its command


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server whose whole log is of this module."""
    with Server() as one:
        yield one


@pytest.fixture
def scene(server: Server, tmp_path: Path, tree_root: str) -> Iterator[Scene]:
    with Site(server, tree_root) as site:
        yield Scene(site, tmp_path)


def entered(manager: UnderSystemd, stack: ExitStack) -> UnderSystemd:
    """The manager, up; or the test is skipped, with the reason."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    try:
        return stack.enter_context(manager)
    except NamespacesForbidden as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def systemd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UnderSystemd]:
    with ExitStack() as stack:
        yield entered(UnderSystemd(tmp_path_factory.mktemp("systemd") / "it"), stack)


@pytest.fixture(params=["systemd", "supervisor", "plain"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Services]:
    """Each in its turn."""
    if request.param == "systemd":
        one: UnderSystemd = request.getfixturevalue("systemd")
        yield one
        return
    kind: Callable[[Path], Services] = UnderSupervisor if request.param == "supervisor" else UnderPlain
    with kind(tmp_path / "manager") as other:
        yield other


class Disturbance:
    """What befalls the guard while it must not start its command. Each returns once a new guard has said so."""

    def __init__(self, manager: Services, scene: Scene) -> None:
        self._manager = manager
        self._scene = scene

    def restart(self) -> None:
        """As an operator does who thinks that it hangs."""
        self._until_another_waits(lambda: self._manager.restart(self._scene.service))

    def kill(self) -> None:
        """SIGKILL to the guard."""
        self._until_another_waits(lambda: os.kill(self.pid(), signal.SIGKILL))

    def pid(self) -> int:
        """The guard's."""
        return wait_for(lambda: self._manager.pid(self._scene.service), "no guard runs")

    def _until_another_waits(self, act: Callable[[], object]) -> None:
        wait_for(lambda: self._said() > 0, "the guard does not say that it waits")
        before = self._said()
        act()
        wait_for(lambda: self._said() > before, lambda: self._manager.output(self._scene.service)[-2000:])

    def _said(self) -> int:
        return self._manager.output(self._scene.service).count(WAITING)


def test_a_guarded_service_never_runs_while_an_epoch_is_open(manager: Services, scene: Scene) -> None:
    """Goal: no manager can make it run. Method: restarts and a SIGKILL in the midst of one epoch, and a SIGKILL just
    before the next; the service goes on for a while after SIGTERM, and has a child that has left home."""
    disturbance = Disturbance(manager, scene)
    service = scene.guard(scene.witness("--linger", 0.3, "--child"))
    manager.start(scene.service, service, scene.environment)
    scene.wait_running(manager.output)
    scene.migrate({2: disturbance.restart, 5: disturbance.kill, 8: disturbance.restart})
    scene.wait_running(manager.output)
    os.kill(disturbance.pid(), signal.SIGKILL)
    scene.migrate({})
    scene.wait_running(manager.output)
    manager.stop(scene.service)
    scene.wait_over()
    assert scene.is_stopped()
    assert len(scene.spans()) == 2
    assert scene.faults() == []


def test_the_same_without_a_guard_is_noticed(manager: Services, scene: Scene) -> None:
    """Negative control: what the test above rests on is the guard, and its check sees what there is to be seen."""
    if isinstance(manager, UnderSystemd):
        manager.systemd.add(f"{scene.service}.service", unit_text(scene.witness(), scene.environment, notify=False))
        manager.systemd.ctl("start", f"{scene.service}.service")
    else:
        manager.start(scene.service, scene.witness(), scene.environment)
    scene.wait_running(manager.output)
    scene.migrate({5: lambda: scene.wait_running(manager.output)})
    manager.stop(scene.service)
    scene.wait_over()
    assert any("'saw'" in fault for fault in scene.faults())


def test_systemd_takes_a_guard_that_waits_for_a_service_that_is_up(systemd: UnderSystemd, scene: Scene) -> None:
    """Goal: `systemctl start` neither hangs nor fails while a migration is under way, and says why nothing runs."""
    unit = f"{scene.service}.service"
    systemd.systemd.add(unit, unit_text(scene.guard(scene.witness()), scene.environment))

    def start() -> None:
        systemd.systemd.ctl("start", unit)  # Type=notify: returns when the guard says that it is up
        assert systemd.systemd.show(unit, "ActiveState") == "active"
        wait_for(
            lambda: "OPEN" in systemd.systemd.show(unit, "StatusText"), lambda: systemd.systemd.ctl("status", unit)
        )

    scene.migrate({2: start})
    scene.wait_running(systemd.output)
    systemd.stop(scene.service)
    assert systemd.systemd.show(unit, "Result") == "success"
    scene.wait_over()
    assert scene.is_stopped()
    assert scene.faults() == []


def test_exec_condition_skips_a_job_while_a_migration_is_under_way(systemd: UnderSystemd, scene: Scene) -> None:
    """Goal: a job of a timer is skipped, which is no failure. Method: the same oneshot unit before, in and after."""
    unit = f"job-{scene.service}.service"
    ran = scene.folder / "ran"
    condition = f"{PROGRAM} epoch --require-stable --at zk://{scene.site.server.hosts} --scope {scene.site.names.scope}"
    systemd.systemd.add(unit, f"[Service]\nType=oneshot\nExecCondition={condition}\nExecStart=/usr/bin/touch {ran}\n")

    def results() -> tuple[bool, str]:
        ran.unlink(missing_ok=True)
        systemd.systemd.ctl("start", unit)
        return ran.exists(), systemd.systemd.show(unit, "ActiveState")

    seen: list[tuple[bool, str]] = [results()]
    scene.migrate({2: lambda: seen.append(results())})
    seen.append(results())
    assert seen == [(True, "inactive"), (False, "inactive"), (True, "inactive")]  # never "failed"


# -- the systemd of the tests -----------------------------------------------------------------------------------------

_HOLD_ONE = """
import sys, time
from pathlib import Path
from tests.managers.systemd import Systemd
from tests.managers.waiting import wait_for
with Systemd(Path(sys.argv[1])) as one:
    one.add("app.service", "[Service]\\nExecStart=/bin/sh -c 'setsid sleep 1000 & exec sleep 1000'\\n")
    one.ctl("start", "app.service")
    wait_for(lambda: len(one.processes()) == 3, lambda: str(one.processes()))  # PID 1 and two that sleep
    print(one.init_pid, *one.processes(), flush=True)
    time.sleep(1000)
"""


_START_ONE = """
import sys
from pathlib import Path
from tests.managers.systemd import Systemd
with Systemd(Path(sys.argv[1])) as one:
    one.add("app.service", "[Service]\\nExecStart=/bin/sleep 1000\\n")
    one.ctl("start", "app.service")
    print(one.show("app.service", "ActiveState"), flush=True)
"""


def test_a_systemd_of_its_own_runs_where_the_host_has_cgroups_v2_alone(systemd: UnderSystemd, tmp_path: Path) -> None:
    """Whatever this host has. Method: inside one, which sees nothing but v2, in a service, start another."""
    script = tmp_path / "start.py"
    script.write_text(_START_ONE)
    systemd.systemd.add(
        "nested.service",
        f"[Service]\nType=oneshot\nWorkingDirectory={Path(__file__).parent.parent}\nEnvironment=PYTHONPATH=.\n"
        f"ExecStart={sys.executable} {script} {tmp_path / 'nested'}\n",
    )
    systemd.systemd.ctl("start", "nested.service")
    assert systemd.systemd.output("nested.service") == "active\n"


def group_of(init_pid: int) -> str:
    """The name of the control group that all of a systemd is in."""
    line = next(line for line in Path(f"/proc/{init_pid}/cgroup").read_text().splitlines() if line.startswith("0::"))
    return next(part for part in line.split("/") if part.startswith("zkmig-test-"))


def left_of(folder: Path, pids: list[int], group: str) -> list[str]:
    """Processes, mounts and control groups."""
    left = [str(pid) for pid in pids if Path(f"/proc/{pid}").exists()]
    left += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(folder) in line]
    return left + [str(found) for found in Path("/sys/fs/cgroup").rglob(group)]


def test_a_systemd_of_its_own_leaves_nothing(tmp_path: Path) -> None:
    """Also when whoever had started it is killed outright, and services have left their sessions."""
    with ExitStack() as stack:
        entered(UnderSystemd(tmp_path / "trial"), stack)
    folder = tmp_path / "it"
    owner = subprocess.Popen([sys.executable, "-c", _HOLD_ONE, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None
        pids = [int(word) for word in owner.stdout.readline().split()]
        assert len(pids) == 4
        group = group_of(pids[0])
        assert left_of(folder, pids, group)
    finally:
        owner.kill()
        owner.communicate()
    wait_for(lambda: not left_of(folder, pids, group), lambda: str(left_of(folder, pids, group)))
