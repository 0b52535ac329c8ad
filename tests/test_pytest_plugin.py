"""The pytest plugin, as who writes migrations uses it: test files run by pytest, with nothing but the plugin.

Method: pytester writes such files and runs pytest in a process of its own; what they assert is what is promised.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from zkmig.errors import BadInput
from zkmig.rehearse.handmade import snapshot_of

pytest_plugins = ["pytester"]

# As in a folder of its own: not what this project's settings say, and the plugin once, whether it is installed or not.
ALONE = ("-p", "no:zkmig", "-p", "zkmig.pytest_plugin", "-p", "no:cacheprovider")

SCRIPT = '''
import zkmig


@zkmig.migration(epoch=7)
def split_pools(tree):
    """Web servers get a pool of their own."""
    tree.set("/app/pools/web", b"a,b")
    tree.create("/app/pools/batch", b"c")
    tree.delete("/app/pools/old")
'''

TESTS = """
import pytest
from kazoo.client import KazooClient

import zkmig

TREE = {"/pools/web": "a,b,c", "/pools/old": b"", "/pools/null": None, "/limits": {"max": 3}}
SCRIPT = "0007_split_pools.py"


def test_the_tree_is_there(zkmig_tree):
    loaded = zkmig_tree.load(TREE, epoch=6)
    assert loaded.root == zkmig_tree.root == "/app"
    assert zkmig_tree.data() == {
        "": b"", "/limits": b'{"max": 3}',
        "/pools": b"", "/pools/null": None, "/pools/old": b"", "/pools/web": b"a,b,c",
    }
    assert zkmig.committed(zkmig_tree.location).epoch == 6


def test_a_rehearsal_leaves_the_tree_alone(zkmig_tree):
    zkmig_tree.load(TREE, epoch=6)
    found = zkmig_tree.rehearse(SCRIPT)
    assert [stage.name for stage in found.stages][1:4] == ["load", "apply in batches", "revert"]
    assert zkmig_tree.data()["/pools/web"] == b"a,b,c"


def test_what_it_does(zkmig_tree):
    zkmig_tree.load(TREE, epoch=6)
    assert zkmig_tree.apply(SCRIPT).epoch == 7
    after = zkmig_tree.data()
    assert (after["/pools/web"], after["/pools/batch"]) == (b"a,b", b"c")
    assert "/pools/old" not in after


def test_the_wrong_epoch(zkmig_tree):
    zkmig_tree.load(TREE)
    with pytest.raises(zkmig.WrongEpoch, match="for epoch 7, and the next one is 1"):
        zkmig_tree.rehearse(SCRIPT)


def test_a_snapshot_and_its_file(zkmig_tree, zkmig_server, tmp_path):
    first = zkmig_tree.load(TREE)
    zkmig.save_snapshot(first, str(tmp_path.parent / "t.zks"))
    with pytest.raises(zkmig.BadInput, match="loaded already"):
        zkmig_tree.load(first)
    client = KazooClient(zkmig_server.hosts)
    client.start()
    client.create("/zookeeper/quota/app")
    client.create("/elsewhere/deep", makepath=True)
    client.stop()


def test_what_the_test_before_left_is_gone(zkmig_tree, zkmig_server, tmp_path):
    file = tmp_path.parent / "t.zks"
    loaded = zkmig_tree.load(file, root="/moved/there", scope="prod")
    assert loaded.tree_hash == zkmig.read(str(file)).tree_hash
    assert zkmig.committed(zkmig_tree.location, "prod").epoch == 0
    client = KazooClient(zkmig_server.hosts)
    client.start()
    assert set(client.get_children("/")) == {"moved", "zkmig", "zookeeper"}
    assert client.get_children("/zookeeper/quota") == []
    client.stop()


@pytest.mark.parametrize("run", [1, 2])
def test_what_is_made_by_hand_goes_too(zkmig_tree, zkmig_server, run):
    client = KazooClient(zkmig_server.hosts)
    client.start()
    assert client.get_children("/") == ["zookeeper"]
    client.create("/by/hand", makepath=True)
    client.stop()


def test_a_whole_server(zkmig_tree):
    zkmig_tree.load({"/a/b": b"1"}, root="/")
    assert zkmig_tree.data() == {"": b"", "/a": b"", "/a/b": b"1"}


def test_a_plan(zkmig_tree):
    zkmig_tree.load({"/a": b"1"})
    plan = zkmig.make_plan(zkmig_tree.read(), zkmig_tree.location)
    assert zkmig_tree.rehearse(plan).stages == ()
"""


def test_fixtures_for_migrations(pytester: pytest.Pytester) -> None:
    """A script, and tests of it, in an empty folder."""
    Path(pytester.path, "0007_split_pools.py").write_text(SCRIPT)
    pytester.makepyfile(test_migrations=TESTS)
    result = pytester.runpytest_subprocess(*ALONE, "-q", timeout=100)
    result.assert_outcomes(passed=10)


def test_a_failing_migration_fails_its_test(pytester: pytest.Pytester) -> None:
    """Negative control: a script that does something else than its test says, and one that fails."""
    Path(pytester.path, "0007_split_pools.py").write_text(SCRIPT.replace('b"a,b"', 'b"wrong"'))
    Path(pytester.path, "0008_fails.py").write_text(
        SCRIPT.replace("epoch=7", "epoch=8").replace("/app/pools/old", "/app/gone")
    )
    pytester.makepyfile(
        """
        def test_what_it_does(zkmig_tree):
            zkmig_tree.load({"/pools/web": "a", "/pools/old": ""}, epoch=6)
            zkmig_tree.apply("0007_split_pools.py")
            assert zkmig_tree.data()["/pools/web"] == b"a,b"

        def test_what_fails(zkmig_tree):
            zkmig_tree.load({"/pools/web": "a"}, epoch=7)
            zkmig_tree.rehearse("0008_fails.py")
        """
    )
    result = pytester.runpytest_subprocess(*ALONE, "-q", timeout=100)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*0008_fails.py:10: /app/gone*"])


def test_without_zookeeper_tests_fail_and_are_not_skipped(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import zkmig.dev.server
        from zkmig.errors import BadInput

        def nothing():
            raise BadInput("no ZooKeeper is installed", "", "install it")

        zkmig.dev.server.find_installation = nothing
        """
    )
    pytester.makepyfile("def test_it(zkmig_tree): pass")
    result = pytester.runpytest_subprocess(*ALONE, "-q", timeout=100)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*no ZooKeeper server can be started here: no ZooKeeper is installed*"])


def test_pytest_finds_the_plugin() -> None:
    """By the entry point that the package declares; its module loads nothing of zkmig (tests/test_layering.py)."""
    settings = tomllib.loads(Path(__file__).parent.parent.joinpath("pyproject.toml").read_text())
    assert settings["project"]["entry-points"]["pytest11"] == {"zkmig": "zkmig.pytest_plugin"}
    assert "zkmig.pytest_plugin" not in sys.modules or hasattr(sys.modules["zkmig.pytest_plugin"], "zkmig_tree")


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"pools": b""}, "begins with /"),
        ({5: b""}, "begins with /"),
        ({"/a//b": b""}, "/a//b"),
        ({"": b"", "/": b""}, "named twice"),
        ({"/a": object()}, "neither bytes"),
        ({"/a/..": b""}, "/a/.."),
    ],
)
def test_a_dict_that_is_no_tree(tree: dict[str, object], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        snapshot_of(tree, "/app")


def test_an_empty_dict_is_a_root() -> None:
    assert list(snapshot_of({}, "/app")) == ["/app"]
    assert snapshot_of({"/a": {"x": 1}}, "/")["/a"].data == b'{"x": 1}'
