"""Profiles: read exactly, refused clearly, and weaker than the environment, which is weaker than options.

Method: files of every shape that operators leave behind; and the real program on a real server, told the same thing in
three ways that contradict each other.
"""

from __future__ import annotations

import json
import logging
import socket
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from kazoo.security import make_digest_acl

from tests.program import Program, location
from zkmig.dev import Server
from zkmig.errors import BadInput
from zkmig.source import credentials, profiles
from zkmig.source.profiles import Profile
from zkmig.wire.credential import Credential

SECRET = "hunter2"


def write(folder: Path, content: str, mode: int = 0o600) -> str:
    path = folder / "profiles.toml"
    path.write_text(content)
    path.chmod(mode)
    return str(path)


# -- the file ---------------------------------------------------------------------------------------------------------


def test_every_field_is_read(tmp_path: Path) -> None:
    """Names of files are relative to the file's folder, or the home of whoever runs it; the rest is taken as it is."""
    file = write(
        tmp_path,
        """
        [other]
        unknown = 1
        [prod]
        at = "zks://zk1:2281,zk2/app"
        scope = "prod"
        auth = ["digest:ann:1", "digest:bob:2"]
        tls_ca = "ca.pem"
        tls_cert = "/etc/me.pem"
        tls_key = "keys/../me.key"
        tls_hostname = false
        session_timeout = 12.5
        timeout = 600
        """,
    )
    assert profiles.load("prod", file) == Profile(
        "prod",
        f"{file}, profile 'prod'",
        at="zks://zk1:2281,zk2/app",
        scope="prod",
        auth=("digest:ann:1", "digest:bob:2"),
        tls_ca=f"{tmp_path}/ca.pem",
        tls_cert="/etc/me.pem",
        tls_key=f"{tmp_path}/keys/../me.key",
        tls_hostname=False,
        session_timeout=12.5,
        timeout=600,
    )


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('scop = "x"', "no such field: 'scop'; did you mean 'scope'?"),
        ('tls_hostnames = "x"', "no such field: 'tls_hostnames'; did you mean 'tls_hostname'?"),
        ('xyzzy = "hunter2"', "no such field: 'xyzzy'; the fields are: at, auth, auth_file, scope"),
        ("scope = 7", "field 'scope' must be a text that is not empty"),
        ('scope = ""', "field 'scope' must be a text that is not empty"),
        ('auth = "digest:a:hunter2"', "field 'auth' must be a list of lines"),
        ('auth = ["digest:a:hunter2", 1]', "field 'auth' must be a list of lines"),
        ('tls_hostname = "no"', "field 'tls_hostname' must be true or false"),
        ("timeout = true", "field 'timeout' must be a number of seconds above 0"),
        ("timeout = 0", "field 'timeout' must be a number of seconds above 0"),
        ("session_timeout = inf", "field 'session_timeout' must be a number of seconds above 0"),
        ("session_timeout = nan", "field 'session_timeout' must be a number of seconds above 0"),
        ('at = "zk1:2181"', "field 'at' must be the location of an ensemble"),
        ('at = "zk://me:hunter2@zk1"', "field 'at' must be the location of an ensemble"),
        ('auth = []\nauth_file = "a"', "fields 'auth' and 'auth_file' at once"),
    ],
)
def test_a_field_that_is_wrong_is_told_by_its_name_alone(tmp_path: Path, line: str, says: str) -> None:
    """File, profile, field, what is wrong; never the value, which may be a secret in the wrong place."""
    file = write(tmp_path, f"[prod]\n{line}\n")
    with pytest.raises(BadInput) as caught:
        profiles.load("prod", file)
    text = str(caught.value)
    assert text.startswith(f"{file}, profile 'prod': {says}")
    assert SECRET not in text
    assert "\n" not in text


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    """Each in one line, with the place where there is one, and without what stands there."""
    file = write(tmp_path, "[prod]\n[prod-eu]\n[plain]\n")
    for name, says in (("prd", "did you mean 'prod'?"), ("xyzzy", "it has: plain, prod, prod-eu")):
        with pytest.raises(BadInput) as caught:
            profiles.load(name, file)
        assert str(caught.value) == f"{file}: there is no profile {name!r}; {says}"
    for content, says in (
        ('[prod]\nat = "hunter2\n', "line 2, column 14: this is not TOML"),
        ("[prod]\nauth = hunter2\n", "line 2, column 8: this is not TOML"),
        ("prod = 1\n", "a profile is a table"),
        ("#" * (profiles.PROFILES_BYTES_MAX + 1), "not a file of profiles"),
    ):
        with pytest.raises(BadInput) as caught:
            profiles.load("prod", write(tmp_path, content))
        assert says in str(caught.value)
        assert SECRET not in str(caught.value)
    Path(file).write_bytes(b"[prod]\n# \xff\n")
    with pytest.raises(BadInput, match="line 2: not UTF-8"):
        profiles.load("prod", file)
    for absent in (str(tmp_path / "none.toml"), str(tmp_path), "a\0b"):
        with pytest.raises(BadInput, match="the profiles cannot be read"):
            profiles.load("prod", absent)


def test_the_default_place() -> None:
    assert profiles.default_file({"HOME": "/h", "XDG_CONFIG_HOME": "/x"}) == "/x/zkmig/profiles.toml"
    assert profiles.default_file({"HOME": "/h", "XDG_CONFIG_HOME": ""}) == "/h/.config/zkmig/profiles.toml"


def test_a_location_by_its_profile(tmp_path: Path) -> None:
    """@name is the profile's place, @name/path a place below it; ./@name is a file, and so is everything else."""
    file = write(tmp_path, '[prod]\nat = "zk://zk1/app/"\n[bare]\n')
    assert profiles.location("@prod", file)[0] == "zk://zk1/app/"
    assert profiles.location("@prod/pools/web", file)[0] == "zk://zk1/app/pools/web"
    assert profiles.location("./@prod", file) == ("./@prod", None)
    assert profiles.location("a@prod", file) == ("a@prod", None)
    with pytest.raises(BadInput, match="profile 'bare': no field 'at'"):
        profiles.location("@bare", file)


# -- credentials in it ------------------------------------------------------------------------------------------------


def test_credentials_of_a_profile_come_last(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The option and the environment each put them out of force; a bad line is told by its number; warnings as for a
    file of credentials."""
    auth_file = tmp_path / "auth"
    auth_file.write_text("digest:bob:2\n")
    auth_file.chmod(0o600)
    ann, bob, eve = (Credential("digest", secret) for secret in (b"ann:hunter2", b"bob:2", b"eve:3"))
    profile = profiles.load("prod", write(tmp_path, '[prod]\nauth = ["digest:ann:hunter2"]\n'))
    assert credentials.load(None, {}, profile) == (ann,)
    assert credentials.load(None, {"ZKMIG_AUTH": ""}, profile) == (ann,)
    assert credentials.load(None, {"ZKMIG_AUTH": "digest:eve:3"}, profile) == (eve,)
    assert credentials.load(str(auth_file), {}, profile) == (bob,)
    by_file = profiles.load("prod", write(tmp_path, '[prod]\nauth_file = "auth"\n'))
    assert credentials.load(None, {}, by_file) == (bob,)
    bad = profiles.load("prod", write(tmp_path, '[prod]\nauth = ["digest:ann:1", "hunter2"]\n'))
    with pytest.raises(BadInput, match="profile 'prod', 'auth' line 2: not a digest credential") as caught:
        credentials.load(None, {}, bad)
    assert SECRET not in str(caught.value)
    with caplog.at_level(logging.WARNING, logger="zkmig"):
        profiles.load("prod", write(tmp_path, '[prod]\nscope = "x"\n', 0o644))
        assert not caplog.records
        profiles.load("prod", write(tmp_path, '[prod]\nauth = ["digest:ann:hunter2"]\n', 0o644))
    assert "other users may read the credentials in it" in caplog.text
    assert SECRET not in caplog.text


# -- the program ------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_trees(zk: Server, eyes: KazooClient, tree_root: str) -> str:
    """/one and /two below the root of the test; only ann may read /two."""
    eyes.create(f"{tree_root}/one", b"", makepath=True)
    eyes.create(f"{tree_root}/two", b"", acl=[make_digest_acl("ann", SECRET, all=True)])
    return location(zk.hosts, tree_root)


def saved_root(program: Program, *arguments: str, env: dict[str, str] | None = None) -> str:
    ran = program("snapshot", *arguments, "-o", "x.zks", "--force", "--json", env=env)
    root: str = ran.succeeded().document["root"]
    return root


def test_option_before_environment_before_profile(program: Program, two_trees: str, tree_root: str) -> None:
    """Scopes `a` and `b` over the two trees, and a profile of each: who is asked for tells who was listened to."""
    names = f"a-{tree_root[1:]}", f"b-{tree_root[1:]}"
    file = write(
        program.folder,
        f'[one]\nat = "{two_trees}/one"\nscope = "{names[0]}"\n'
        f'[two]\nat = "{two_trees}/two"\nscope = "{names[1]}"\nauth = ["digest:ann:{SECRET}"]\n',
    )
    env = {"ZKMIG_PROFILES": file}
    for profile in ("one", "two"):  # the profile's scope, and its location by name
        program("init", f"@{profile}", "--profile", profile, env=env).succeeded()

    def scope_of(*arguments: str, env: dict[str, str]) -> str:
        return str(program("epoch", "--json", *arguments, env=env).succeeded().document["scope"])

    assert scope_of("--profile", "one", env=env) == names[0]
    assert scope_of("--profile", "two", "--profiles", file, env={}) == names[1]
    assert scope_of("--profiles", file, "--profile", "two", env={}) == names[1]
    assert scope_of(env={**env, "ZKMIG_PROFILE": "two"}) == names[1]
    assert scope_of("--profile", "one", env={**env, "ZKMIG_PROFILE": "two"}) == names[0]
    in_env = {**env, "ZKMIG_SCOPE": names[1], "ZKMIG_AT": f"{two_trees}/two"}
    assert scope_of("--profile", "one", env=in_env) == names[1]
    assert scope_of("--profile", "one", "--at", f"{two_trees}/one", "--scope", names[0], env=in_env) == names[0]
    assert scope_of("--at", "@one", env=env) == names[0]
    program("epoch", env=env).failed(2, "no ensemble is given")
    # What status proposes works as it stands: it repeats who the operator said to be, however that was said.
    for arguments in (("--profile", "two", "--profiles", file), ("--at", "@two", "--profiles", file)):
        proposed = program("status", *arguments, "--json").succeeded().document["next"][1]
        assert sorted(proposed.partition(" PLAN.zkplan ")[2].split()) == sorted(
            ("--profile", "two", "--profiles", file)
        )


def test_credentials_go_with_the_profile_that_is_named(program: Program, two_trees: str, tree_root: str) -> None:
    """As --profile, or as the only profile among the locations; two that differ in credentials want a word."""
    file = write(
        program.folder,
        f'[open]\nat = "{two_trees}/one"\n[closed]\nat = "{two_trees}/two"\nauth = ["digest:ann:{SECRET}"]\n',
    )
    env = {"ZKMIG_PROFILES": file}
    program("snapshot", f"{two_trees}/two", "-o", "x.zks", env=env).failed(6, "not permitted")
    assert saved_root(program, f"{two_trees}/two", "--profile", "closed", env=env) == f"{tree_root}/two"
    assert saved_root(program, "@closed", env=env) == f"{tree_root}/two"
    assert program("verify", "@closed", "@closed", env=env).code == 0
    differ = program("diff", "@open", "@closed", env=env)
    differ.failed(2, "@open, @closed: these profiles differ in credentials or TLS", "--profile")
    assert program("diff", "@open", "@closed", "--profile", "closed", env=env).code == 1
    # What the environment holds is stronger than what the profile holds.
    program("snapshot", "@closed", "-o", "y.zks", env={**env, "ZKMIG_AUTH": "digest:eve:1"}).failed(6, "not permitted")


def test_the_default_file_and_its_absence(program: Program, two_trees: str, tree_root: str, tmp_path: Path) -> None:
    """In XDG_CONFIG_HOME without being named; nobody needs one; who names a profile does."""
    folder = tmp_path / "config" / "zkmig"
    folder.mkdir(parents=True)
    env = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    assert saved_root(program, f"{two_trees}/one", env=env) == f"{tree_root}/one"
    program("snapshot", "@one", "-o", "y.zks", env=env).failed(2, f"{folder}/profiles.toml", "No such file")
    write(folder, f'[one]\nat = "{two_trees}/one"\n')
    assert saved_root(program, "@one", env=env) == f"{tree_root}/one"
    program("snapshot", "@on", "-o", "y.zks", env=env).failed(2, "did you mean 'one'?")


def test_a_timeout_of_the_profile_ends_the_command(program: Program) -> None:
    """--timeout from the profile; the option overrides it."""
    file = write(program.folder, "[slow]\ntimeout = 1\n[fast]\ntimeout = 600\nsession_timeout = 5\n")
    env = {"ZKMIG_PROFILES": file}
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and says nothing
        port = silent.getsockname()[1]
        ran = program("snapshot", f"zk://127.0.0.1:{port}/", "-o", "x.zks", "--profile", "slow", env=env)
        ran.failed(143, "--timeout is over while waiting for", f"127.0.0.1:{port}, silent for")
        arguments = ("snapshot", f"zk://127.0.0.1:{port}/", "-o", "x.zks", "--profile", "fast", "--timeout", "0.3")
        program(*arguments, env=env).failed(143, "--timeout is over")
    assert json.dumps(sorted(program.files)) == '["profiles.toml"]'
