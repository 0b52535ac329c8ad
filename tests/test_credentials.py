"""Credentials: read exactly from file and environment, and never shown in an error, a log line or a repr.

Method: files and variables of every shape that operators leave behind, good and bad.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkmig.errors import BadInput
from zkmig.source.credentials import AUTH_BYTES_MAX, ENV_AUTH, load
from zkmig.wire.credential import Credential

SECRET = "hunter2"


def _write(folder: Path, content: bytes, mode: int = 0o600) -> str:
    path = folder / "auth"
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


def test_nothing_given_is_no_credential() -> None:
    assert load(None, {}) == ()
    assert load(None, {ENV_AUTH: ""}) == ()


def test_a_file_holds_a_credential_a_line(tmp_path: Path) -> None:
    content = "# ours\n\n  digest:ann:hunter2 \r\n\t# digest:old:gone\ndigest:服务:a:b#c,d e\n"
    assert load(_write(tmp_path, content.encode()), {}) == (
        Credential("digest", b"ann:hunter2"),
        Credential("digest", "服务:a:b#c,d e".encode()),
    )


def test_the_environment_adds_to_the_file_and_doubles_count_once(tmp_path: Path) -> None:
    auth_file = _write(tmp_path, b"digest:ann:1\ndigest:ann:1")
    assert load(auth_file, {ENV_AUTH: "digest:bob:2,digest:eve:3\ndigest:ann:1\n"}) == (
        Credential("digest", b"ann:1"),
        Credential("digest", b"bob:2,digest:eve:3"),
    )


@pytest.mark.parametrize(
    "line",
    [
        "ann:hunter2",
        "hunter2",
        "digest:hunter2",
        "digest:hunter2:",
        "digest::hunter2",
        "sasl:ann:hunter2",
        "DIGEST:ann:hunter2",
        "digest hunter2:x",
        "digest:ann:\0hunter2",
    ],
)
def test_a_bad_line_is_told_by_its_number_and_never_shown(tmp_path: Path, line: str) -> None:
    auth_file = _write(tmp_path, f"# one\n\n{line}\n".encode())
    with pytest.raises(BadInput) as caught:
        load(auth_file, {})
    assert f"{auth_file}, line 3" in str(caught.value)
    with pytest.raises(BadInput) as from_env:
        load(None, {ENV_AUTH: f"\n{line}"})
    assert f"{ENV_AUTH}, line 2" in str(from_env.value)
    for error in (caught.value, from_env.value):
        assert SECRET not in str(error)
        assert SECRET not in repr(error)


def test_bytes_that_are_no_text_are_told_by_their_line(tmp_path: Path) -> None:
    auth_file = _write(tmp_path, b"digest:ann:1\ndigest:bob:hunter2\xff\n")
    with pytest.raises(BadInput, match="line 2") as caught:
        load(auth_file, {})
    assert SECRET not in str(caught.value)


def test_files_that_cannot_be_credentials_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file"):
        load(str(tmp_path / "absent"), {})
    with pytest.raises(BadInput, match="directory"):
        load(str(tmp_path), {})
    with pytest.raises(BadInput, match="not a list of credentials"):
        load(_write(tmp_path, b"#" * (AUTH_BYTES_MAX + 1)), {})
    with pytest.raises(BadInput):
        load("a\0b", {})


def test_a_file_that_others_can_read_is_used_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="zkmig"):
        assert load(_write(tmp_path, b"digest:ann:hunter2", 0o600), {})
        assert not caplog.records
        auth_file = _write(tmp_path, b"digest:ann:hunter2", 0o640)
        assert load(auth_file, {}) == (Credential("digest", b"ann:hunter2"),)
    assert auth_file in caplog.text
    assert SECRET not in caplog.text


def test_a_pipe_is_read_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"digest:ann:hunter2\n")
    os.close(write_end)
    try:
        assert load(f"/dev/fd/{read_end}", {}) == (Credential("digest", b"ann:hunter2"),)
    finally:
        os.close(read_end)
    assert not caplog.records


@given(st.text(max_size=60).filter(lambda text: ":" not in text and text.strip() not in ("", "#")))
def test_text_that_is_no_credential_is_never_taken_for_one(text: str) -> None:
    lines = [line.strip() for line in text.split("\n")]
    if all(not line or line.startswith("#") for line in lines):
        assert load(None, {ENV_AUTH: text}) == ()
    else:
        with pytest.raises(BadInput, match=f"{ENV_AUTH}, line "):
            load(None, {ENV_AUTH: text})
