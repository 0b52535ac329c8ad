"""Nothing of a guarded command outlives the guard's word, and whoever runs it cannot tell that it is guarded.

Method: a stand-in guard without ZooKeeper in a process of its own (tests/guarding.py), real commands that do what
daemons do, and SIGKILL to each of the parties. Negative controls take a mechanism out of the keeper's process.
"""

from __future__ import annotations

import ast
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guarding import REPOSITORY, Guarded, Yard, runs, wait_for
from zkmig.guard.command import PROGRAM_CHARS_MAX, Exited, NotStarted, look_for
from zkmig.guard.leftovers import MARKER

PYTHON = [sys.executable, "-S", "-c"]
SLEEPER = ["sleep", "600"]

# Leaves its session and its parent, as daemons do, and writes down who it is. TERM does not end it.
DAEMON = """
import os, signal, sys, time
if os.fork():
    time.sleep(600 if sys.argv[2] == "stay" else 0)
    sys.exit(7)
os.setsid()
if os.fork():
    os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if sys.argv[3] == "stubborn" else signal.SIG_DFL)
with open(sys.argv[1], "w") as file:
    print(os.getpid(), file=file)
time.sleep(600)
"""


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    with Yard(tmp_path) as made:
        yield made


def daemon(yard: Yard, *, stay: bool = True, stubborn: bool = False) -> list[str]:
    """A command with a daemon, whose pid will be in the file "daemon". stay: its own process stays as well."""
    manner = ["stay" if stay else "go", "stubborn" if stubborn else "mild"]
    return [*PYTHON, DAEMON, str(yard.folder / "daemon"), *manner]


def finish(guard: Guarded) -> None:
    """Both events of an end that was asked for."""
    guard.expect("Exited")
    guard.expect("Gone")


# -- codes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "code"),
    [(["true"], 0), (["sh", "-c", "exit 3"], 3), (["sh", "-c", "kill -KILL $$"], 137), (["sh", "-c", "kill $$"], 143)],
)
def test_the_code_is_the_commands(yard: Yard, argv: list[str], code: int) -> None:
    guard = yard.guard(argv).start()
    told = guard.expect("Exited")
    assert Exited(told["code"], told["signal"]).exit_code == code
    guard.expect("Gone")


def test_a_program_is_looked_for_as_exec_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first on PATH that may be run, not the first of that name; a path as it stands."""
    for folder, mode in (("one", 0o644), ("two", 0o755)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "thing").write_text("#!/bin/sh\n")
        (tmp_path / folder / "thing").chmod(mode)
    path = {"PATH": f"{tmp_path}/none:{tmp_path}/one:{tmp_path}/two"}
    assert look_for("thing", path) is None
    told = look_for("thing", {"PATH": f"{tmp_path}/one"})
    assert told is not None
    assert told.exit_code == 126
    monkeypatch.chdir(tmp_path / "two")
    assert look_for("./thing", {"PATH": ""}) is None
    long = look_for("x" * 4000, path)
    assert long is not None
    assert long.exit_code == 127
    assert len(long.text) < PROGRAM_CHARS_MAX + 100


@pytest.mark.parametrize(("argv", "code"), [(["no-such-command"], 127), (["/etc/passwd"], 126), (["/etc"], 126)])
def test_a_command_that_cannot_be_started_is_told_as_a_shell_does(yard: Yard, argv: list[str], code: int) -> None:
    guard = yard.guard(argv)
    guard.tell(do="start", argv=None)
    told = guard.expect("NotStarted")
    not_started = NotStarted(told["error"], told["text"])
    assert not_started.exit_code == code
    assert not_started.text.startswith(f"{argv[0]}: ")
    assert look_for(argv[0], os.environ) == not_started
    guard.expect("Gone")
    guard.start(["true"])
    finish(guard)


def test_a_command_is_started_again_and_a_hook_in_its_place(yard: Yard) -> None:
    guard = yard.guard(SLEEPER).start()
    guard.stop(5)
    finish(guard)
    guard.start(["sh", "-c", "exit 9"])
    assert guard.expect("Exited")["code"] == 9
    guard.expect("Gone")
    guard.start()
    assert os.sched_getscheduler(guard.command) == os.sched_getscheduler(0), "the keeper is urgent only while it ends"
    guard.stop(5)
    finish(guard)


def test_a_signal_goes_to_the_command_itself(yard: Yard) -> None:
    script = f"trap 'exit 5' USR1; echo $$ > {yard.folder}/ready; while :; do sleep 0.05; done"
    guard = yard.guard(["sh", "-c", script]).start()
    yard.pid_from("ready")
    guard.tell(do="signal", number=signal.SIGUSR1)
    assert guard.expect("Exited")["code"] == 5
    guard.expect("Gone")


# The child of the keeper takes its time between fork and exec; as the first to do something there.
SLOW_CHILD = (
    "import os, time, zkmig.guard.keeper as k\n"
    "k.os = type('os', (), {**vars(os), 'setpgid': lambda *ids: (time.sleep(0.3), os.setpgid(*ids))})\n"
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_before_exec_is_not_lost(yard: Yard, number: signal.Signals) -> None:
    """What the keeper ignores its child ignores as well, for a moment."""
    guard = yard.guard(SLEEPER, keeper_prelude=SLOW_CHILD)
    for _ in range(2):  # START and SIGNAL are read at once by a keeper that still loads, and by one that waits
        guard.tell(do="start", argv=None)
        guard.tell(do="signal", number=number)
        guard.expect("Started")
        assert guard.expect("Exited")["signal"] == number
        guard.expect("Gone")


def test_a_stop_before_exec_does_not_take_the_whole_grace(yard: Yard) -> None:
    guard = yard.guard(SLEEPER, keeper_prelude=SLOW_CHILD)
    guard.tell(do="start", argv=None)
    guard.stop(600)
    guard.expect("Started")
    assert guard.expect("Exited")["signal"] == signal.SIGTERM
    guard.expect("Gone")


def test_control_unless_signals_are_blocked_around_the_fork_one_is_lost(yard: Yard) -> None:
    not_blocked = SLOW_CHILD + "import signal\nk.signal = type('signal', (), {**vars(signal), 'SIG_BLOCK': 1})\n"
    guard = yard.guard(SLEEPER, keeper_prelude=not_blocked)
    guard.tell(do="start", argv=None)
    guard.tell(do="signal", number=signal.SIGTERM)
    guard.expect("Started")
    assert guard.quiet(0.5)
    guard.stop(0)
    finish(guard)


# -- ending the whole tree --------------------------------------------------------------------------------------------


def test_a_daemon_is_ended_before_gone_is_said(yard: Yard) -> None:
    guard = yard.guard(daemon(yard)).start()
    pid = yard.pid_from("daemon")
    guard.stop(20)
    finish(guard)
    assert not runs(pid)


def test_a_daemon_outlives_its_command_until_it_is_ended(yard: Yard) -> None:
    """Exited alone is no proof: Gone does not follow while the daemon lives."""
    guard = yard.guard(daemon(yard, stay=False, stubborn=True)).start()
    assert guard.expect("Exited")["code"] == 7
    pid = yard.pid_from("daemon")
    assert guard.quiet(0.3)
    guard.stop(0.2)
    guard.expect("Gone")
    assert not runs(pid)


def test_who_ignores_term_has_the_grace_and_no_more(yard: Yard) -> None:
    guard = yard.guard(daemon(yard, stubborn=True)).start()
    pid = yard.pid_from("daemon")
    guard.stop(1.0)
    assert guard.expect("Exited")["signal"] == signal.SIGTERM
    assert guard.quiet(0.5)
    assert runs(pid)
    guard.expect("Gone")
    assert not runs(pid)


def test_a_second_stop_shortens_the_grace(yard: Yard) -> None:
    guard = yard.guard(daemon(yard, stubborn=True)).start()
    yard.pid_from("daemon")
    guard.stop(600)
    guard.expect("Exited")
    guard.stop(0)
    guard.expect("Gone")


def test_orphans_of_a_nested_subreaper_are_ended(yard: Yard) -> None:
    code = "from zkmig.guard.prctl import become_subreaper; become_subreaper()\n" + DAEMON
    guard = yard.guard([sys.executable, "-c", code, str(yard.folder / "daemon"), "stay", "stubborn"]).start()
    pid = yard.pid_from("daemon")
    guard.stop(0.3)
    finish(guard)
    assert not runs(pid)


def test_a_stopped_process_hears_term(yard: Yard) -> None:
    """SIGSTOP to a command that would end well on TERM: CONT comes with TERM, so it does, within a long grace."""
    script = f"trap 'exit 4' TERM; echo $$ > {yard.folder}/ready; while :; do sleep 0.05; done"
    guard = yard.guard(["sh", "-c", script]).start()
    os.kill(yard.pid_from("ready"), signal.SIGSTOP)
    guard.stop(600)
    assert guard.expect("Exited")["code"] == 4
    guard.expect("Gone")


def test_what_a_handler_runs_to_clean_up_is_left_in_peace_for_a_second(yard: Yard) -> None:
    script = (
        f"trap 'sh -c \"sleep 0.4; echo done > {yard.folder}/cleaned\"; exit 0' TERM; "
        f"echo $$ > {yard.folder}/ready; while :; do sleep 0.05; done"
    )
    guard = yard.guard(["sh", "-c", script]).start()
    yard.pid_from("ready")
    guard.stop(600)
    finish(guard)
    assert (yard.folder / "cleaned").exists()


def test_what_appears_during_the_grace_hears_term_too(yard: Yard) -> None:
    """A handler of TERM that starts something endless: that is told, long before the grace is over."""
    script = f"trap 'sleep 600; exit 0' TERM; echo $$ > {yard.folder}/ready; while :; do sleep 0.05; done"
    guard = yard.guard(["sh", "-c", script]).start()
    yard.pid_from("ready")
    guard.stop(600)
    finish(guard)


def test_a_command_that_execs_is_still_the_command(yard: Yard) -> None:
    guard = yard.guard(["sh", "-c", f"echo $$ > {yard.folder}/ready; exec sleep 600"]).start()
    pid = yard.pid_from("ready")
    assert pid == guard.command
    wait_for(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n", "exec")
    guard.stop(5)
    assert guard.expect("Exited")["signal"] == signal.SIGTERM
    guard.expect("Gone")


@pytest.mark.parametrize("leave", ["pass", "os.setsid()"])
def test_a_process_that_forks_and_ends_for_ever_loses(yard: Yard, leave: str) -> None:
    """One process at a time, with another pid whenever it is looked for; in a group of its own each time, or not."""
    comet = f"import os\nos.write(1, b'.')\nwhile True:\n    if os.fork():\n        os._exit(0)\n    {leave}\n"
    guard = yard.guard([*PYTHON, comet], popen={"stdout": subprocess.PIPE}).start()
    assert guard.process.stdout is not None
    guard.process.stdout.read(1)
    guard.expect("Exited")
    guard.stop(0.2)
    guard.expect("Gone")


@pytest.mark.skipif(os.geteuid() != 0, reason="only another user's processes can be bounded by RLIMIT_NPROC")
@pytest.mark.parametrize("leave", ["pass", "os.setsid()"])
def test_a_fork_bomb_that_fills_its_limit_loses(yard: Yard, leave: str) -> None:
    """Who is killed makes room for another to be forked, at once: they are to be stopped first. At most 100."""
    bomb = (
        "import os, resource, time\n"
        "resource.setrlimit(resource.RLIMIT_NPROC, (100, 100))\n"
        "os.setgroups([]); os.setgid(54321); os.setuid(54321)\n"
        "assert resource.getrlimit(resource.RLIMIT_NPROC) == (100, 100) and os.getuid() == 54321\n"
        "os.set_blocking(1, False)\n"
        "while True:\n"
        "    try:\n"
        "        if os.fork() == 0:\n"
        f"            {leave}\n"
        "    except BlockingIOError:\n"
        "        try:\n"
        "            os.write(1, b'.')\n"
        "        except BlockingIOError:\n"
        "            pass\n"
        "        time.sleep(0.001)\n"
    )
    guard = yard.guard([*PYTHON, bomb], popen={"stdout": subprocess.PIPE}).start()
    assert guard.process.stdout is not None
    guard.process.stdout.read(200)
    guard.stop(0)
    finish(guard)


def test_what_kill_does_not_end_is_named(yard: Yard) -> None:
    """Stand-in for a process in state D: a keeper whose signals go nowhere for a while."""
    prelude = (
        "import zkmig.guard.ending as e\n"
        "e.STILL_ALIVE_AFTER_S = 0.2\n"
        "e.signal_all = lambda *given: None\n"
        "e.send_group = lambda *given: None\n"
        "e._kill_children = lambda spared: None\n"
    )
    guard = yard.guard(SLEEPER, keeper_prelude=prelude).start()
    guard.stop(0)
    told = guard.expect("StillAlive")
    assert [(each["pid"], each["name"]) for each in told["processes"]] == [(guard.command, "sleep")]
    os.kill(guard.command, signal.SIGKILL)
    finish(guard)


def test_a_stopped_keeper_goes_on_when_it_is_told_to_end_a_run(yard: Yard) -> None:
    guard = yard.guard(SLEEPER).start()
    os.kill(guard.keeper, signal.SIGSTOP)
    guard.stop(600)
    finish(guard)


def test_a_keeper_that_does_not_answer_is_complained_of(yard: Yard) -> None:
    """Stand-in for one that is stopped again, or suspended with its whole group: it does not hear of the end."""
    deaf = "import zkmig.guard.keeper as k\nk.Keeper._end = lambda self, grace_s: None\n"
    guard = yard.guard(SLEEPER, keeper_prelude=deaf, answer_s=-4.5).start()
    guard.stop(0)
    guard.expect("KeeperSilent")
    assert guard.quiet(0.7)
    os.kill(guard.command, signal.SIGKILL)
    finish(guard)


# -- who dies ---------------------------------------------------------------------------------------------------------


def test_the_keeper_ignores_what_is_sent_to_a_whole_group(yard: Yard) -> None:
    guard = yard.guard(SLEEPER).start()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        os.kill(guard.keeper, number)
    guard.stop(5)
    assert guard.expect("Exited")["signal"] == signal.SIGTERM
    guard.expect("Gone")


def test_the_guard_killed_everything_ends(yard: Yard) -> None:
    """Within the grace last told; and the keeper goes last."""
    guard = yard.guard(daemon(yard, stubborn=True), grace_s=0.5).start()
    pid = yard.pid_from("daemon")
    guard.process.kill()
    wait_for(lambda: not runs(guard.keeper), "the keeper's end")
    assert not runs(pid)
    assert not runs(guard.command)


def test_the_keeper_killed_the_guard_ends_what_falls_to_it(yard: Yard) -> None:
    guard = yard.guard(daemon(yard, stubborn=True), grace_s=0.5).start()
    pid = yard.pid_from("daemon")
    os.kill(guard.keeper, signal.SIGKILL)
    told = guard.expect("KeeperDied")
    assert told["status"] == -signal.SIGKILL
    assert told["running"]
    guard.expect("Gone")
    assert not runs(pid)
    assert not runs(guard.command)
    guard.start(["true"])  # with a keeper of its own
    finish(guard)


# Forks and ends, so often and no more; all of it holds the pipe open. Says that it has begun, and that it is over.
BOUNDED_COMET = """
import os, sys
pipe = os.open(sys.argv[1], os.O_WRONLY)
os.write(pipe, b"begun ")
os.setsid()
for _ in range(3000):
    if os.fork():
        os._exit(0)
os.write(pipe, b"over ")
"""


@pytest.mark.parametrize("with_stranger", [False, True])
def test_the_keeper_killed_gone_is_said_once_a_chain_of_forks_has_ended(yard: Yard, with_stranger: bool) -> None:
    """Of such a chain a scan sees a zombie, or nothing. The pipe proves it: it ends with its last writer.

    with_stranger: a child of the guard's that is to be spared, so that there is no ECHILD.
    """
    pipe = yard.folder / "pipe"
    os.mkfifo(pipe)
    prefix = ["sh", "-c", f'sleep 600 & echo $! > {yard.folder}/stranger; exec "$@"', "sh"] if with_stranger else []
    argv = ["sh", "-c", '"$@" & exec sleep 600', "sh", *PYTHON, BOUNDED_COMET, str(pipe)]
    guard = yard.guard(argv, grace_s=0.0, popen={"prefix": prefix}).start()
    reading = os.open(pipe, os.O_RDONLY)
    try:
        assert os.read(reading, 6) == b"begun "
        os.kill(guard.keeper, signal.SIGKILL)
        guard.expect("KeeperDied")
        guard.expect("Gone")
        os.set_blocking(reading, False)
        assert os.read(reading, 6) == b"", "the chain had come to its end, and the test proves nothing"
    finally:
        os.close(reading)
    if with_stranger:
        stranger = yard.pid_from("stranger")
        assert runs(stranger)
        os.kill(stranger, signal.SIGKILL)


def test_a_keeper_killed_while_nothing_runs_is_told_and_replaced(yard: Yard) -> None:
    guard = yard.guard(["true"]).start()
    finish(guard)
    os.kill(guard.keeper, signal.SIGKILL)
    assert not guard.expect("KeeperDied")["running"]
    guard.start()
    finish(guard)


# -- passed through ---------------------------------------------------------------------------------------------------


def test_megabytes_pass_from_stdin_to_stdout(yard: Yard) -> None:
    content = os.urandom(1 << 20) * 5
    (yard.folder / "content").write_bytes(content)
    with open(yard.folder / "content", "rb") as source, open(yard.folder / "copy", "wb") as copy:
        guard = yard.guard(["sh", "-c", "cat | cat"], popen={"stdin": source, "stdout": copy}).start()
    finish(guard)
    assert (yard.folder / "copy").read_bytes() == content


def test_stdin_ends_where_the_guards_ends(yard: Yard) -> None:
    """Through pipes, in both directions at once."""
    guard = yard.guard(["tr", "a", "b"], popen={"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}).start()
    assert guard.process.stdin is not None
    assert guard.process.stdout is not None
    guard.process.stdin.write(b"a" * 50_000)
    guard.process.stdin.close()
    assert guard.process.stdout.read(50_000) == b"b" * 50_000
    finish(guard)


def test_inherited_descriptors_arrive_and_none_of_ours(yard: Yard) -> None:
    """Socket activation: the descriptor that the guard was given, and LISTEN_PID names the command."""
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    script = (
        "import os\nfds = {fd for fd in range(1024) if os.path.exists(f'/proc/self/fd/{fd}')}\n"
        f"os.write({writing}, repr((os.environ['LISTEN_FDS'], os.environ['LISTEN_PID'], os.getpid(), fds)).encode())"
    )
    expected = {number for number in range(1024) if is_inherited(number)}
    try:
        guard = yard.guard([*PYTHON, script], listen_fds="1").start()
    finally:
        os.close(writing)
    finish(guard)
    guard.close()
    with open(reading) as file:
        number, listen_pid, pid, descriptors = ast.literal_eval(file.read())
    assert number == "1"
    assert listen_pid == str(pid)
    assert pid == guard.command
    assert descriptors == expected
    assert writing in expected


def is_inherited(descriptor: int) -> bool:
    try:
        return os.get_inheritable(descriptor)
    except OSError:
        return False


def test_dispositions_are_those_of_who_started_the_guard_and_nothing_is_blocked(yard: Yard) -> None:
    """As under nohup. Only that Python ignores SIGPIPE is nobody's wish, nor what the keeper ignores."""
    ignored = [signal.SIGHUP, signal.SIGUSR2]
    blocked = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGPIPE]
    out = yard.folder / "status"
    guard = yard.guard(["sh", "-c", f"exec cat /proc/self/status > {out}"], ignored=ignored, blocked=blocked).start()
    finish(guard)
    masks = dict(line.split(":\t") for line in out.read_text().splitlines() if line.startswith("Sig"))
    assert int(masks["SigBlk"], 16) == 0
    without_c_library = int(masks["SigIgn"], 16) & ~(0b11 << 31)  # 32 and 33: nobody else can set them
    assert without_c_library == sum(1 << number - 1 for number in ignored)


def test_the_marker_names_every_guard_around(yard: Yard) -> None:
    guard = yard.guard(["sh", "-c", f"echo ${MARKER} > {yard.folder}/marker"], popen={"env": {MARKER: "outer"}}).start()
    finish(guard)
    assert (yard.folder / "marker").read_text() == f"outer:{guard.instance}\n"


def test_the_keeper_loads_little(yard: Yard) -> None:
    """It is there as long as the command is, and every start waits for it."""
    out = yard.folder / "modules"
    prelude = f"import sys, zkmig.guard.keeper\nopen({str(out)!r}, 'w').write(' '.join(sys.modules))"
    finish(yard.guard(["true"], keeper_prelude=prelude).start())
    heavy = {"asyncio", "dataclasses", "json", "logging", "re", "socket", "subprocess", "threading", "typing"}
    assert not heavy & set(out.read_text().split())


def test_the_keeper_can_be_run_as_a_module(yard: Yard) -> None:
    """Its guard is gone before it begins: it ends, and says nothing."""
    ours, theirs = socket.socketpair()
    ours.close()
    keeper = [sys.executable, "-m", "zkmig.guard.keeper", str(theirs.fileno())]
    ran = subprocess.run(keeper, pass_fds=[theirs.fileno()], cwd=REPOSITORY, capture_output=True, check=False)
    theirs.close()
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")
    assert not yard.inhabitants()


# -- negative controls ------------------------------------------------------------------------------------------------

NO_SUBREAPER = "import zkmig.guard.keeper as k\nk.become_subreaper = lambda: None\n"
NO_PDEATHSIG = "import zkmig.guard.keeper as k\nk.die_with_parent = lambda number: None\n"
GROUP_ONLY = (
    "import zkmig.guard.ending as e, os, signal\n"
    "def step(self, now):\n"
    "    self.next_at = now + 0.1\n"
    "    if self.group: os.killpg(self.group, signal.SIGKILL)\n"
    "    return []\n"
    "e.Ending.step = step\n"
)


def test_control_without_the_subreaper_gone_is_said_too_early(yard: Yard) -> None:
    guard = yard.guard(daemon(yard, stay=False), keeper_prelude=NO_SUBREAPER).start()
    pid = yard.pid_from("daemon")
    finish(guard)
    assert runs(pid), "the daemon has escaped: the tests above would notice"
    os.kill(pid, signal.SIGKILL)


def test_control_without_pdeathsig_a_command_survives_its_keeper_and_guard(yard: Yard) -> None:
    """Both are killed at once, so that neither can end it; with PDEATHSIG, it is the kernel that does."""
    for prelude, survives in ((NO_PDEATHSIG, True), ("", False)):
        guard = yard.guard(SLEEPER, keeper_prelude=prelude).start()
        kill_both(guard)
        if survives:
            time.sleep(0.3)
            assert runs(guard.command)
            os.kill(guard.command, signal.SIGKILL)
        wait_for(lambda pid=guard.command: not runs(pid), "the command's end")  # type: ignore[misc]


def test_control_a_signal_to_the_group_misses_who_has_left_it(yard: Yard) -> None:
    guard = yard.guard(daemon(yard), keeper_prelude=GROUP_ONLY).start()
    pid = yard.pid_from("daemon")
    guard.stop(0)
    guard.expect("Exited")
    assert guard.quiet(1.0)
    assert runs(pid)
    os.kill(pid, signal.SIGKILL)
    guard.expect("Gone")


def kill_both(guard: Guarded) -> None:
    """Guard and keeper, so that neither sees the other's end: stopped first, and a stopped one does nothing more."""
    os.kill(guard.keeper, signal.SIGSTOP)
    os.kill(guard.process.pid, signal.SIGSTOP)
    os.kill(guard.process.pid, signal.SIGKILL)
    os.kill(guard.keeper, signal.SIGKILL)
