"""A guard's name is held once on a machine, until all is cleaned up; and nobody is declared dead without proof.

Method: claims in directories of the test's own, with real holders that die and clean up; verdicts over made-up
identities, one fact changed at a time.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from tests.guarding import Yard, runs, wait_for
from zkmig.errors import BadInput
from zkmig.guard import claim as claim_module
from zkmig.guard import machine as machine_module
from zkmig.guard.claim import Holder, NameTaken, Verdict, claim, file_name, judge, state_folder
from zkmig.guard.machine import ProcessIdentity, Unseen, started_of, this_process

STUBBORN = "trap '' TERM; echo $$ > {0}/ready; while :; do sleep 0.05; done"


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    with Yard(tmp_path) as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "claims"
    made.mkdir(mode=0o700)
    return made


# -- the claim --------------------------------------------------------------------------------------------------------


def test_a_name_is_held_once_and_free_again(folder: Path) -> None:
    with claim("web", "a", folder=folder) as first:
        assert first.earlier == ()
        with pytest.raises(NameTaken, match=f"pid {os.getpid()}") as taken:
            claim("web", "b", folder=folder)
        assert taken.value.holder == Holder("a", this_process())
        claim("api", "c", folder=folder).close()
    with claim("web", "d", folder=folder) as second:
        assert [holder.instance for holder in second.earlier] == ["a"]
    with claim("web", "e", folder=folder) as third:
        assert [holder.instance for holder in third.earlier] == ["d", "a"]


def test_a_name_is_one_of_its_scope(folder: Path) -> None:
    with claim("web", "a", within=("/zkmig", "prod"), folder=folder):
        claim("web", "b", within=("/zkmig", "test"), folder=folder).close()
        claim("web", "c", within=("/other", "prod"), folder=folder).close()
        with pytest.raises(NameTaken):
            claim("web", "d", within=("/zkmig", "prod"), folder=folder)


def test_a_claim_that_cannot_be_written_leaves_whom_the_file_names(folder: Path) -> None:
    """A full disk, of which RLIMIT_FSIZE is the stand-in. It is refused in words, and the name is free."""
    claim("web", "a", folder=folder).close()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((folder / file_name("web")).stat().st_size, hard))
    try:
        with pytest.raises(BadInput, match="cannot be written"):
            claim("web", "b", folder=folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with claim("web", "c", folder=folder) as ours:
        assert [holder.instance for holder in ours.earlier] == ["a"]


def test_a_predecessor_that_is_being_cleaned_up_is_waited_for(yard: Yard, folder: Path) -> None:
    """The guard is killed, its keeper needs the grace: the name is free once the command is gone, not before."""
    script = STUBBORN.format(yard.folder)
    guard = yard.guard(["sh", "-c", script], claim="web", folder=str(folder), grace_s=1.0)
    guard.start()
    yard.pid_from("ready")
    with pytest.raises(NameTaken, match=f"pid {guard.process.pid} "):
        claim("web", "next", folder=folder)
    guard.process.kill()
    guard.process.wait()
    waited_for: list[Holder] = []
    with claim("web", "next", folder=folder, on_wait=waited_for.append) as ours:
        assert not runs(guard.command)
        assert [holder.instance for holder in ours.earlier] == [guard.instance]
    assert [holder.instance for holder in waited_for] == [guard.instance]


def test_a_guard_killed_a_moment_ago_is_dead_though_nobody_has_waited_for_it(yard: Yard, folder: Path) -> None:
    """A zombie's pid still has its start: it must not be taken for a living holder."""
    guard = yard.guard(["sh", "-c", STUBBORN.format(yard.folder)], claim="web", folder=str(folder), grace_s=0.5).start()
    yard.pid_from("ready")
    guard.process.kill()
    wait_for(lambda: started_of(guard.process.pid) is Unseen.GONE, "its end")
    claim("web", "next", folder=folder).close()


def test_a_holder_that_cannot_be_seen_is_not_taken_for_dead(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with claim("web", "a", folder=folder):
        monkeypatch.setattr(claim_module, "started_of", lambda _: Unseen.UNKNOWN)
        with pytest.raises(NameTaken):
            claim("web", "b", folder=folder)


def test_the_wait_can_be_ended(yard: Yard, folder: Path) -> None:
    class Enough(Exception):
        pass

    def check() -> None:
        raise Enough

    guard = yard.guard(["sh", "-c", STUBBORN.format(yard.folder)], claim="web", folder=str(folder), grace_s=3.0).start()
    yard.pid_from("ready")
    guard.process.kill()
    guard.process.wait()
    with pytest.raises(Enough):
        claim("web", "next", folder=folder, check=check)
    os.kill(guard.keeper, signal.SIGKILL)
    wait_for(lambda: not runs(guard.command), "the end of the command")
    yard.sweep()


def test_control_unless_the_keeper_holds_the_name_it_is_free_too_early(yard: Yard, folder: Path) -> None:
    script = STUBBORN.format(yard.folder)
    guard = yard.guard(["sh", "-c", script], claim="web", folder=str(folder), grace_s=1.0, keeper_holds=False).start()
    yard.pid_from("ready")
    guard.process.kill()
    guard.process.wait()
    with claim("web", "next", folder=folder):
        assert runs(guard.command)
    wait_for(lambda: not runs(guard.keeper), "the keeper's end")


def test_a_lock_on_a_removed_file_is_no_claim(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is removed between opening and locking it: the claim is on the file that others will find."""
    honest = claim_module._lock

    def lock(descriptor: int, opened: int, path: Path) -> bool:
        monkeypatch.setattr(claim_module, "_lock", honest)
        path.unlink()
        return honest(descriptor, opened, path)

    monkeypatch.setattr(claim_module, "_lock", lock)
    monkeypatch.setattr(claim_module, "POLL_INTERVAL_S", 0)
    with claim("web", "a", folder=folder), pytest.raises(NameTaken):
        claim("web", "b", folder=folder)


def test_symbolic_links_and_foreign_directories_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / file_name("web")).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadInput):
        claim("web", "a", folder=folder)
    assert not (tmp_path / "elsewhere").exists()
    folder.chmod(0o777)
    with pytest.raises(BadInput, match="somebody else"):
        claim("api", "a", folder=folder)
    folder.chmod(0o700)
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setattr(claim_module, "state_folder", lambda: tmp_path / "link")
    with pytest.raises(BadInput):
        claim("api", "a")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")
def test_another_users_directory_is_refused(folder: Path) -> None:
    os.chown(folder, 54321, 54321)
    with pytest.raises(BadInput, match="somebody else"):
        claim("web", "a", folder=folder)


def test_where_claims_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert state_folder({"RUNTIME_DIRECTORY": "/run/a:/run/b"}) == Path("/run/a")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert state_folder({"XDG_RUNTIME_DIR": "/run/user/0"}) == Path("/run/zkmig")
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    assert state_folder({"XDG_RUNTIME_DIR": "/run/user/7"}) == Path("/run/user/7/zkmig")
    assert state_folder({}).name == "zkmig-7"


def test_file_names_are_plain_and_differ() -> None:
    names = ["web", "../web", "a/b", "a%2Fb", "ä", "x" * 500, "x" * 501, ""]
    files = [file_name(name) for name in names]
    files += [file_name("a", ["b", "c"]), file_name("a", ["b,c"]), file_name("c,a", ["b"]), file_name("b,c,a")]
    files += [file_name("x" * 500, ["b"]), file_name("x" * 500, ["c"])]
    assert len(set(files)) == len(names) + 6
    assert all("/" not in file and len(file.encode()) <= 255 for file in files)


def test_a_file_that_no_guard_wrote_names_nobody(folder: Path) -> None:
    for content in ("", "[]", '{"holders": [{}]}', '{"holders": 3}', "\0\0"):
        (folder / file_name("web")).write_text(content)
        with claim("web", "a", folder=folder) as ours:
            assert ours.earlier == ()


# -- who we are -------------------------------------------------------------------------------------------------------


def test_an_identity_survives_json_and_keys_of_later_versions() -> None:
    me = this_process()
    assert me.pid == os.getpid()
    assert me.started == started_of(os.getpid())
    value = json.loads(json.dumps({**me.to_json(), "later": {"more": 1}}))
    assert ProcessIdentity.from_json(value) == me
    without: Mapping[str, object] = {key: value[key] for key in value if key != "hardware"}
    assert ProcessIdentity.from_json(without) == replace(me, hardware={})


def test_a_user_that_is_not_told_is_nobodys() -> None:
    """Registrations of an earlier version have none, and two of these are not of one user for that."""
    me = this_process()
    value = {key: told for key, told in me.to_json().items() if key != "user"}
    earlier = ProcessIdentity.from_json(value)
    assert me.is_same_user_as(me)
    assert not earlier.is_same_user_as(me)
    assert not earlier.is_same_user_as(earlier)


def ended_child() -> int:
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


@pytest.mark.parametrize(
    "number",
    [errno.ENOENT, errno.ESRCH, errno.EACCES, errno.EMFILE, errno.EIO],  # the first as where /proc hides it
)
def test_only_the_kernel_says_that_a_process_is_gone(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever /proc answers: that it shows none, or cannot be read, is no end."""

    def read_process(_: int) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(machine_module, "read_process", read_process)
    assert started_of(os.getpid()) is Unseen.UNKNOWN
    assert this_process().started == 0
    assert started_of(ended_child()) is Unseen.GONE


@pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")
def test_a_process_that_may_not_be_signalled_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "proc_is_ours", lambda: False)  # then its /proc is not asked at all
    os.seteuid(54321)
    try:
        assert started_of(os.getppid()) is Unseen.UNKNOWN
    finally:
        os.seteuid(0)


def test_without_a_descriptor_to_spare_nothing_is_proven() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        found = started_of(os.getpid())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found is Unseen.UNKNOWN


@pytest.mark.parametrize("broken", [None, [], {}, {"pid": 1}, {**this_process().to_json(), "pid": True}])
def test_an_identity_that_is_none_is_refused(broken: object) -> None:
    with pytest.raises(ValueError, match="process of a registration"):
        ProcessIdentity.from_json(broken)


def test_nothing_that_names_the_machine_leaves_it() -> None:
    text = json.dumps(this_process().to_json())
    for file in ("/etc/machine-id", "/sys/class/dmi/id/product_uuid", "/sys/class/net/eth0/address"):
        if os.path.exists(file) and (secret := Path(file).read_text().strip()):
            assert secret not in text


# -- verdicts ---------------------------------------------------------------------------------------------------------

HERE = ProcessIdentity("web-1", 50, 9000, "m1", "boot1", "pid:[1]", False, {"dmi": "d1", "nics": "n1"})
THEN = replace(HERE, pid=40, started=700)
INIT = replace(THEN, pid=1, namespace="pid:[2]", init=True)
NAMED = [Holder("other", THEN), Holder("before", THEN)]


def never(pid: int) -> int | Unseen:
    pytest.fail(f"pid {pid} means nothing here")


@pytest.mark.parametrize(
    ("process", "named", "runs_now", "verdict"),
    [
        (THEN, [], {40: 700}, Verdict.ALIVE),
        (THEN, NAMED, {40: 700}, Verdict.ALIVE),
        (THEN, [], {}, Verdict.LEFTOVERS),
        (THEN, [], {40: 8000}, Verdict.LEFTOVERS),  # the pid was given away again
        (THEN, [], {40: Unseen.UNKNOWN}, Verdict.UNKNOWN),  # /proc hides whoever has it, or could not be read
        (THEN, NAMED, {40: Unseen.UNKNOWN}, Verdict.UNKNOWN),
        (replace(THEN, started=0), [], {40: 8000}, Verdict.UNKNOWN),  # it could not read its own start
        (replace(THEN, started=0), [], {}, Verdict.LEFTOVERS),
        # Restarted containers: the pid namespace is another, or has the number of the old one.
        (INIT, NAMED, None, Verdict.OVER),
        (replace(INIT, namespace=HERE.namespace), NAMED, {1: 8000}, Verdict.LEFTOVERS),
        (INIT, [], None, Verdict.UNKNOWN),  # its file is not here: another container of this host
        (replace(INIT, init=False), NAMED, None, Verdict.UNKNOWN),  # others of its namespace may live on
        (replace(INIT, namespace=""), [], None, Verdict.UNKNOWN),
        # Another boot.
        (replace(THEN, boot="boot0"), [], None, Verdict.OVER),
        (replace(INIT, boot="boot0"), [], None, Verdict.OVER),
        (replace(THEN, boot="boot0", hardware={"dmi": "d1"}), [], None, Verdict.OVER),
        (replace(THEN, boot="boot0", hardware={"dmi": "d1", "nics": "n2"}), [], None, Verdict.UNKNOWN),  # a clone
        (replace(THEN, boot="boot0", hardware={"dmi": "d2", "nics": "n1"}), [], None, Verdict.UNKNOWN),
        (replace(THEN, boot="boot0", hardware={}), NAMED, None, Verdict.UNKNOWN),  # ids and files are copied
        (replace(THEN, boot="boot0", hardware={"later": "x"}), [], None, Verdict.UNKNOWN),
        (replace(THEN, boot="boot0", machine="m2"), [], None, Verdict.UNKNOWN),
        (replace(THEN, boot="boot0", host="web-2"), [], None, Verdict.UNKNOWN),
        (replace(THEN, boot=""), NAMED, None, Verdict.UNKNOWN),
        (replace(THEN, host="web-2", boot="boot2", machine="m2", hardware={"nics": "n2"}), [], None, Verdict.UNKNOWN),
    ],
)
def test_verdicts(
    process: ProcessIdentity, named: list[Holder], runs_now: dict[int, int | Unseen] | None, verdict: Verdict
) -> None:
    """runs_now: what starts the pids of this namespace have; None: they must not be looked at."""

    def started(pid: int) -> int | Unseen:
        return never(pid) if runs_now is None else runs_now.get(pid, Unseen.GONE)

    assert judge("before", process, HERE, named, started) is verdict


def test_where_nothing_can_be_read_of_us_nothing_is_proven() -> None:
    nothing = replace(HERE, boot="", namespace="", machine="", hardware={})
    for process in (THEN, INIT, nothing, replace(THEN, boot="boot0")):
        assert judge("before", process, nothing, NAMED, never) is Verdict.UNKNOWN
