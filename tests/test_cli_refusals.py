"""Every bad input: one line with what, where and what to do, the right exit code, no traceback, and no file left.

Method: run the installed `zkmig` against real servers and damaged files; look at its output and its folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kazoo.security import make_acl, make_digest_acl

import zkmig
from tests.conftest import KazooClientFactory
from tests.program import Program, location
from tests.scopes import AFTER, BEFORE, ME, Site
from zkmig.api.access import Access
from zkmig.dev import Server
from zkmig.dev.ports import pick_ports

UNREACHABLE = "zk://127.0.0.1:1"


@pytest.fixture
def tree(zk: Server, tree_root: str, kazoo_client: KazooClientFactory) -> str:
    """Location of a small tree."""
    client = kazoo_client(zk)
    client.create(f"{tree_root}/pools/web", b"v1", makepath=True)
    return location(zk.hosts, tree_root)


@pytest.fixture
def target(program: Program, zk: Server, tree_root: str, tree: str) -> str:
    """Location of an empty STABLE scope, named like its root; p.zkplan copies `tree` there; s.zks is `tree`."""
    there = location(zk.hosts, f"{tree_root}-target")
    source = zkmig.read(tree)
    zkmig.init(there, f"{tree_root[1:]}-target", allow_empty=True)
    zkmig.save_snapshot(source, str(program.folder / "s.zks"))
    zkmig.save_plan(zkmig.make_plan(source, there), str(program.folder / "p.zkplan"))
    return there


# -- usage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nonsense",), "No such command"),
        (("snapshot",), "LOCATION"),
        (("snapshot", "zk://h/a", "-o", "x", "--nonsense"), "--nonsense"),
        (("apply", "p.zkplan"), "--epoch"),
        (("apply", "--epoch", "0", "p.zkplan"), "--epoch"),
        (("apply", "--epoch", "1", "--single-shot", "often", "p.zkplan"), "--single-shot"),
        (("epoch", "--at", UNREACHABLE, "--timeout", "soon"), "--timeout"),
        (("status",), "ZKMIG_AT"),
        (("resume", "--yes"), "--at"),
        (("rollback", "--yes"), "--at"),
    ],
)
def test_usage(program: Program, arguments: tuple[str, ...], words: str) -> None:
    assert words in program(*arguments).failed(2)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("zk://", "no host given"),
        ("zk://host:99999/app", "not a port"),
        ("zk://host/app//pools", "empty component"),
        ("http://host/app", "unknown kind of location"),
        ("missing.zks", "no such file"),
        ("host:2181/app", "an ensemble is written zk://"),
    ],
)
def test_bad_locations(program: Program, place: str, words: str) -> None:
    assert words in program("snapshot", place, "-o", "x.zks").failed(2)
    assert program.files == set()


def test_a_password_in_a_location_is_not_repeated(program: Program) -> None:
    line = program("snapshot", "zk://me:hunter2@host/app", "-o", "x.zks").failed(2, "credentials do not belong")
    assert "hunter2" not in line


def test_commands_on_a_scope_want_an_ensemble(program: Program) -> None:
    program("status", "--at", "s.zks").failed(2, "not a live ensemble")
    program("init", "s.zks", "--scope", "s").failed(2, "not a live ensemble")
    program("init", "zk://h/app", "--scope", "a/b").failed(2, "not a scope name")


# -- servers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("snapshot", f"{UNREACHABLE}/a", "-o", "x.zks"),
        ("init", f"{UNREACHABLE}/a", "--scope", "a"),
        ("epoch", "--at", UNREACHABLE, "--require-stable"),
        ("resume", "--at", UNREACHABLE, "--scope", "a", "--yes"),
    ],
)
def test_nobody_listens(program: Program, arguments: tuple[str, ...]) -> None:
    """Told at once: nothing is tried again where nobody listens. What a name takes to resolve is not ours."""
    began = time.monotonic()
    program(*arguments).failed(6, "127.0.0.1:1 connection refused")
    assert time.monotonic() - began < Access().connect_timeout_s
    elsewhere = [one.replace(UNREACHABLE, f"zk://no-such-host.invalid:2181,{UNREACHABLE[5:]}") for one in arguments]
    program(*elsewhere).failed(6, "127.0.0.1:1 connection refused", "no-such-host.invalid:2181 ")
    assert program.files == set()


def test_a_plan_whose_servers_are_gone(program: Program, target: str, zk: Server) -> None:
    (port,) = pick_ports(1)
    nowhere = target.replace(zk.hosts, f"127.0.0.1:{port}")
    program("apply", "--epoch", 1, "p.zkplan", "--yes", "--at", nowhere).failed(6, str(port))


def test_timeout_is_kept_when_a_server_is_silent(program: Program, fresh_zk: Server) -> None:
    """A halted server takes connections and never answers: it is named, and how long it has said nothing."""
    fresh_zk.pause()
    try:
        for command in ("epoch", "status"):
            ran = program(command, "--at", location(fresh_zk.hosts), "--timeout", 1.5)
            ran.failed(143, f"--timeout is over while waiting for {fresh_zk.hosts}, silent for ")
    finally:
        fresh_zk.unpause()


# -- files ------------------------------------------------------------------------------------------------------------


def flip_bit(content: bytes, at: float) -> bytes:
    """`content` with one bit changed at that part of its length."""
    position = int(len(content) * at)
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "flipped early": lambda content: flip_bit(content, 0.1),
    "flipped in the middle": lambda content: flip_bit(content, 0.5),
    "flipped at the end": lambda content: flip_bit(content, 0.999),
    "truncated": lambda content: content[: len(content) // 2],
    "longer": lambda content: content + b"\0",
    "empty": lambda _: b"",
    "text": lambda _: b"this is neither",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_refused_with_the_byte(program: Program, target: str, damage: str) -> None:
    """Alter a snapshot and a plan by one bit, cut them, or give something else; neither is used."""
    for name in ("s.zks", "p.zkplan"):
        path = program.folder / name
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    program("diff", "s.zks", target).failed(2, "s.zks", "at byte")
    program("apply", "--epoch", 1, "p.zkplan", "--yes").failed(2, "p.zkplan", "at byte")
    assert program.files == {"s.zks", "p.zkplan"}


def test_one_kind_of_file_for_the_other(program: Program, target: str) -> None:
    program("diff", "p.zkplan", target).failed(2, "p.zkplan", "this is a plan file")
    program("apply", "--epoch", 1, "s.zks", "--yes").failed(2, "s.zks", "this is a snapshot file")
    program("resume", "s.zks", "--yes").failed(2, "this is a snapshot file")


def test_files_are_known_by_their_magic(program: Program, target: str) -> None:
    (program.folder / "s.zks").rename(program.folder / "s.zkplan")
    (program.folder / "p.zkplan").rename(program.folder / "p.zks")
    assert program("diff", "s.zkplan", target).code == 1
    program("apply", "--epoch", 1, "p.zks", "--yes").succeeded()


def test_no_file_is_overwritten_unasked(program: Program, target: str, tree: str) -> None:
    before = (program.folder / "s.zks").read_bytes()
    program("snapshot", tree, "-o", "s.zks").failed(2, "s.zks", "the file exists", "--force")
    program("plan", "--from", tree, "--to", target, "-o", "s.zks").failed(2, "the file exists")
    nobody = "zk://127.0.0.1:1/app"  # known before anybody is asked
    program("revert", "--epoch", 1, "--at", nobody, "-o", "s.zks", "--yes").failed(2, "the file exists")
    assert (program.folder / "s.zks").read_bytes() == before
    program("snapshot", tree, "-o", "s.zks", "--force").succeeded()
    assert program.files == {"s.zks", "p.zkplan"}


@pytest.mark.parametrize(("name", "words"), [("none/x.zks", "does not exist"), (".", "directory")])
def test_places_that_cannot_be_written(program: Program, tree: str, name: str, words: str) -> None:
    assert words in program("snapshot", tree, "-o", name).failed(2)
    assert program.files == set()


def test_files_hold_secrets_and_are_made_private(program: Program, target: str) -> None:
    assert target
    for name in ("s.zks", "p.zkplan"):
        assert (program.folder / name).stat().st_mode & 0o077 == 0


# -- scopes -----------------------------------------------------------------------------------------------------------


def test_init_refuses_what_overlaps(program: Program, zk: Server, tree: str, tree_root: str, target: str) -> None:
    name = f"{tree_root[1:]}-target"
    program("init", tree, "--scope", name).failed(3, "covers", tree_root)
    program("init", f"{target}/below", "--scope", "another").failed(3, "overlaps")
    program("init", location(zk.hosts, "/zkmig/x"), "--scope", "another").failed(2, "cannot lie here")


def test_commands_refuse_a_scope_that_is_not_there(program: Program, zk: Server, tree: str) -> None:
    create = f"create it: zkmig init {tree} --scope"
    program("init", f"{tree}/pools", "--scope", "beside").succeeded()
    beside = location(zk.hosts, tree.partition(zk.hosts)[2] + "2")
    told = program("status", "--at", beside).failed(3, f"{beside}: no scope under /zkmig covers this path;")
    assert "beside" in told.partition("scopes here: ")[2].partition(";")[0].split(", ")
    assert f"; name one with --scope, or create it: zkmig init {beside} --scope NAME" in told
    for words in (("status",), ("epoch",), ("hold", "--reason", "x"), ("release",)):
        told = program(*words, "--at", tree, "--scope", "none").failed(3, f"{create} none")
        assert f"{tree}: there is no scope 'none' under /zkmig;" in told
    at, elsewhere = location(zk.hosts), ("--control", "/else where")
    told = program("status", "--at", at, *elsewhere).failed(3, f"{at}: there is no scope under /else where;")
    assert told.endswith(f"; create it: zkmig init {at}/PATH --scope NAME --control '/else where'\n")
    for command in ("resume", "rollback"):
        program(command, "--at", location(zk.hosts), "--scope", "none", "--yes").failed(3, "no scope 'none'")


def test_a_wrong_scope_is_told_which_there_are(program: Program, zk: Server, tree: str) -> None:
    """By every command that is given one, whether it looks for the scope in the registry or for its record."""
    name = tree.rpartition("/")[2]
    program("init", tree, "--scope", name).succeeded()
    for command in ("status", "epoch", "resume", "rollback"):
        options = ("--yes",) if command in ("resume", "rollback") else ()
        told = program(command, "--at", location(zk.hosts), "--scope", "pord", *options).failed(3, "'pord'")
        assert name in told.partition("scopes here: ")[2].partition(";")[0].split(", ")
        assert told.startswith(f"zkmig: {location(zk.hosts)}: there is no scope 'pord' under /zkmig; ")
        assert "; name one with --scope, or create it: zkmig init zk://" in told


def test_a_scope_must_be_named_where_several_can_be_meant(program: Program, zk: Server, target: str, tree: str) -> None:
    assert target
    program("init", tree, "--scope", "also").succeeded()
    program("status", "--at", location(zk.hosts)).failed(2, f"{location(zk.hosts)}: several scopes", "--scope")
    program("status", "--at", tree, "--scope", "also").succeeded()
    program("status", "--at", target, "--scope", "also").failed(3, f"{target}: scope 'also' covers", "not this path")


def test_the_epoch_must_be_the_next(program: Program, target: str) -> None:
    """Two is not next to zero; and after the commit, one is past."""
    program("apply", "--epoch", 2, "p.zkplan", "--yes").failed(3, "the committed epoch is 0", "--epoch 1")
    program("apply", "--epoch", 1, "p.zkplan", "--yes").succeeded()
    zkmig.save_plan(zkmig.make_plan(zkmig.read(target), target), str(program.folder / "q.zkplan"))
    program("apply", "--epoch", 1, "q.zkplan", "--yes").failed(3, "the committed epoch is 1")
    program("rollback", "--at", target, "--dry-run").failed(3, "nothing to roll back", "zkmig revert --epoch 1")
    program("apply", "--epoch", 2, "q.zkplan", "--yes").succeeded()  # with nothing to do, so the epoch stays
    told = program("apply", "--epoch", 3, "p.zkplan", "--yes").failed(3, "the committed epoch is 1")
    assert "the plan was made at epoch 0, too: plan again, then use --epoch 2 [nothing was written]" in told


def test_a_stale_plan(
    program: Program, zk: Server, target: str, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    """Somebody creates what the plan would create: refused, named, nothing written; a change elsewhere is none."""
    assert target
    client = kazoo_client(zk)
    client.create(f"{tree_root}-target", b"mine")
    program("apply", "--epoch", 1, "p.zkplan", "--yes").failed(
        3, f"{tree_root}-target", "exists already", f" at {zk.hosts}: the target has changed", "[nothing was written]"
    )
    program("apply", "--epoch", 1, "p.zkplan", "--yes", "--dry-run").failed(3, "exists already")
    assert client.get_children(f"{tree_root}-target") == []
    client.delete(f"{tree_root}-target")
    client.create(f"{tree_root}-elsewhere", b"")
    ran = program("apply", "--epoch", 1, "p.zkplan", "--yes", "--throttle", 1000).succeeded()
    assert "in one transaction, to which --throttle does not apply" in ran.stderr


def test_a_plan_that_will_be_stale_comes_without_a_command_to_apply_it(program: Program, site: Site) -> None:
    """Made while an epoch is under way; one that is made at rest comes with it."""
    source, there = (location(site.server.hosts, root) for root in (f"{site.root}-source", site.root))
    site.kazoo.create(f"{site.root}-source", b"v1")
    auth = {"ZKMIG_AUTH": f"digest:{ME.secret.decode()}"}
    site.init(BEFORE)
    ran = program("plan", "--from", source, "--to", there, "-o", "a.zkplan", env=auth).succeeded()
    assert "apply it with: zkmig apply --epoch 1" in ran.stderr
    site.leave_open(site.plan(AFTER), 3)
    ran = program("plan", "--from", source, "--to", there, "-o", "b.zkplan", env=auth).succeeded()
    assert "will be stale" in ran.stderr
    assert "apply it with" not in ran.stderr


def test_no_terminal_and_no_yes(program: Program, target: str) -> None:
    program("apply", "--epoch", 1, "p.zkplan").failed(2, "--yes")
    program("resume", "p.zkplan").failed(2, "--yes")
    program("rollback", "--at", target).failed(2, "--yes")


def test_nothing_to_go_on_with_and_nothing_to_take_back(program: Program, target: str) -> None:
    program("resume", "--at", target, "--yes").succeeded()
    program("resume", "p.zkplan", "--yes").failed(3, "neither begun nor committed", "zkmig apply --epoch 1")
    program("rollback", "--at", target, "--yes").failed(3, "nothing to roll back")
    program("rollback", "p.zkplan", "--dry-run").failed(3, "nothing to roll back")


def test_require_stable_on_an_empty_scope(program: Program, zk: Server, tree_root: str) -> None:
    there = location(zk.hosts, tree_root)
    program("init", there, "--scope", tree_root[1:]).succeeded()
    ran = program("epoch", "--at", there, "--require-stable")
    assert (ran.code, ran.stdout) == (75, "0\n")
    assert "EMPTY" in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_a_node_that_no_guarded_transaction_can_hold(
    program: Program, zk: Server, target: str, tree: str, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    """A node just small enough to be created by itself is too large beside the guard: told at planning."""
    kazoo_client(zk).create(f"{tree_root}/pools/blob", b"x" * 1_048_400)
    line = program("plan", "--from", tree, "--to", target, "-o", "q.zkplan").failed(2, "/pools/blob", "jute.maxbuffer")
    assert "xxx" not in line
    assert "q.zkplan" not in program.files


# -- permissions ------------------------------------------------------------------------------------------------------

OWNER = make_digest_acl("owner", "sesame", all=True)
CREDENTIAL = "digest:owner:sesame"


@pytest.fixture
def guarded(zk: Server, tree_root: str, kazoo_client: KazooClientFactory) -> str:
    """Location of a tree whose one child only `owner` may read."""
    client = kazoo_client(zk)
    client.create(tree_root, b"")
    client.create(f"{tree_root}/secret", b"treasure", acl=[OWNER])
    return location(zk.hosts, tree_root)


def test_what_may_not_be_read_is_never_left_out(program: Program, guarded: str, tree_root: str) -> None:
    line = program("snapshot", guarded, "-o", "x.zks").failed(6, f"{tree_root}/secret", "--auth-file")
    assert "treasure" not in line
    assert program.files == set()
    program("snapshot", guarded, "-o", "x.zks", "--exclude", f"{tree_root}/secret").succeeded()
    program("snapshot", guarded, "-o", "y.zks", env={"ZKMIG_AUTH": CREDENTIAL}).succeeded()


def test_a_target_that_may_not_be_written(
    program: Program, zk: Server, tree: str, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    """The target's root lets others look at everything and write nothing: told at planning, naming it."""
    root = f"{tree_root}-locked"
    kazoo_client(zk).create(root, b"", acl=[OWNER, make_acl("world", "anyone", read=True, admin=True)])
    there = location(zk.hosts, root)
    program("plan", "--from", tree, "--to", there, "-o", "q.zkplan").failed(6, root, "--auth-file")
    assert program.files == set()
    program("plan", "--from", tree, "--to", there, "-o", "q.zkplan", env={"ZKMIG_AUTH": CREDENTIAL}).succeeded()


def test_only_the_admin_applies(program: Program, zk: Server, tree: str, tree_root: str) -> None:
    """init with a credential makes it the admin; a session without it reads the status and writes nothing."""
    there = location(zk.hosts, f"{tree_root}-target")
    secrets = program.folder / "auth"
    secrets.write_text(f"# ours\n{CREDENTIAL}\n")
    secrets.chmod(0o600)
    with_control = ("--control", f"/control{tree_root}")
    scoped = ("--scope", "prod", *with_control)
    program("init", there, *scoped, "--allow-empty", "--admin", "digest:owner").failed(2, "no password is known")
    program("init", there, *scoped, "--allow-empty", "--admin", "digest:owner", "--auth-file", secrets).succeeded()
    program("plan", "--from", tree, "--to", there, "-o", "p.zkplan", *with_control).succeeded()
    program("apply", "--epoch", 1, "p.zkplan", "--yes").failed(6, "not permitted", "admin")
    program("status", "--at", there, *with_control).succeeded()
    program("apply", "--epoch", 1, "p.zkplan", "--yes", "--auth-file", secrets).succeeded()
    assert program("epoch", "--at", there, *with_control).succeeded().stdout == "1\n"


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        ("me", "not an identity"),
        ("digest:me", "no password is known"),
        ("digest:me:hunter2", "not the hash"),
        ("world:everyone", "anyone"),
        ("auth:", "not an identity"),
        ("digest:other:vlUvLnd8MlacsE80rDuu6ONESbM=", "none of the admins is this session"),
    ],
)
def test_admins_that_cannot_be(program: Program, tree: str, identity: str, words: str) -> None:
    line = program("init", tree, "--scope", "x", "--admin", identity).failed(2, words)
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "No such file"), ("sesame\n", "line 1"), ("digest:owner\n", "line 1"), ("\n\nsasl:x:sesame\n", "line 3")],
)
def test_credentials_that_cannot_be_used(program: Program, content: str | None, words: str) -> None:
    secrets = Path(program.folder, "auth")
    if content is not None:
        secrets.write_text(content)
        secrets.chmod(0o600)
    line = program("epoch", "--at", UNREACHABLE, "--auth-file", "auth").failed(2, "auth", words)
    assert "sesame" not in line
