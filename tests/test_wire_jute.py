"""Jute records: every field comes back as it was written, and every damage is named with the offset of its field.

Method: bytes put together with struct, cut at every offset, and random bytes; nothing but JuteError may come out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire_values import ACLS, DATA, INT, LONG, STATS, TEXT, pack_acl, pack_bytes, pack_stat, pack_text, pack_texts
from zkmig.errors import BadInput
from zkmig.model.acl import AclList
from zkmig.model.stat import Stat
from zkmig.wire import jute
from zkmig.wire.jute import Decoder, JuteError

READERS: dict[str, Callable[[Decoder], object]] = {
    "int": Decoder.read_int,
    "long": Decoder.read_long,
    "bool": Decoder.read_bool,
    "buffer": Decoder.read_buffer,
    "string": Decoder.read_string,
    "strings": Decoder.read_strings,
    "stat": Decoder.read_stat,
    "acl": Decoder.read_acl,
    "multi header": Decoder.read_multi_header,
    "reply header": Decoder.read_reply_header,
}


@given(INT, LONG, st.booleans(), DATA, TEXT, st.lists(TEXT, max_size=5), STATS, ACLS)
def test_fields_in_a_row_come_back(
    number: int, long: int, flag: bool, data: bytes | None, text: str, texts: list[str], stat: Stat, acl: AclList
) -> None:
    """Fields of every kind, one after another, are read back, and the encoder writes the same bytes."""
    packed = struct.pack(">iq?", number, long, flag) + pack_bytes(data) + pack_text(text) + pack_stat(stat)
    packed += pack_acl(acl) + pack_texts(texts)
    decoder = Decoder(b"junk" + packed, 4)
    assert (decoder.read_int(), decoder.read_long(), decoder.read_bool()) == (number, long, flag)
    assert (decoder.read_buffer(), decoder.read_string(), decoder.read_stat()) == (data, text, stat)
    assert (decoder.read_acl(), decoder.read_strings()) == (acl, texts)
    decoder.expect_end()
    encoded = [jute.encode_int(number), jute.encode_long(long), jute.encode_bool(flag), jute.encode_buffer(data)]
    encoded += [jute.encode_string(text), jute.encode_stat(stat), jute.encode_acl(acl)]
    assert packed.startswith(b"".join(encoded))


def test_null_is_not_empty() -> None:
    """A null buffer has length -1 and an empty one length 0, both ways."""
    assert Decoder(b"\xff\xff\xff\xff").read_buffer() is None
    assert Decoder(b"\0\0\0\0").read_buffer() == b""
    assert jute.encode_buffer(None) == b"\xff\xff\xff\xff"
    assert jute.encode_buffer(b"") == b"\0\0\0\0"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_read(kind: Callable[[bytes], bytes | bytearray | memoryview]) -> None:
    """bytes, bytearray and memoryview give the same, and data comes out as bytes."""
    decoder = Decoder(kind(pack_bytes(b"abc") + pack_text("ü")))
    assert decoder.read_buffer() == b"abc"
    assert decoder.read_string() == "ü"


@pytest.mark.parametrize(
    ("reader", "packed"),
    [
        ("int", struct.pack(">i", 7)),
        ("long", struct.pack(">q", 7)),
        ("bool", b"\1"),
        ("buffer", pack_bytes(b"abc")),
        ("string", pack_text("añb")),
        ("stat", bytes(68)),
        ("multi header", struct.pack(">i?i", 4, False, 0)),
        ("reply header", struct.pack(">iqi", 1, 2, 0)),
    ],
)
def test_a_cut_field_is_named_by_its_beginning(reader: str, packed: bytes) -> None:
    """Cut a field at every offset: JuteError each time, with the offset where the field begins."""
    for stop in range(len(packed)):
        decoder = Decoder(b"ab" + packed[:stop], 2)
        with pytest.raises(JuteError) as caught:
            READERS[reader](decoder)
        assert (caught.value.offset, decoder.offset) == (2, 2)
        assert str(caught.value).endswith("at byte 2")


@pytest.mark.parametrize("count", [-1, -2, 3, 2**31 - 1])
@pytest.mark.parametrize("reader", ["strings", "acl"])
def test_impossible_counts_are_refused_at_once(reader: str, count: int) -> None:
    """A vector that claims more elements than bytes could hold (or fewer than none) fails at its count."""
    with pytest.raises(JuteError) as caught:
        READERS[reader](Decoder(b"x" + struct.pack(">i", count) + bytes(8), 1))
    assert caught.value.offset == 1


@pytest.mark.parametrize("length", [-2, -(2**31), 9, 2**31 - 1])
@pytest.mark.parametrize("reader", ["buffer", "string"])
def test_impossible_lengths_are_refused(reader: str, length: int) -> None:
    """Lengths below -1 or beyond the end fail at the field, without reading past the end."""
    with pytest.raises(JuteError) as caught:
        READERS[reader](Decoder(b"x" + struct.pack(">i", length) + bytes(8), 1))
    assert caught.value.offset == 1


def test_a_null_string_is_refused() -> None:
    """No reply that is read carries one, so one means that the layout is wrong."""
    with pytest.raises(JuteError):
        Decoder(struct.pack(">i", -1)).read_string()


@pytest.mark.parametrize("raw", [b"\xff", b"\xc3", b"\xed\xa0\xbd", b"\xed\xb8\x80\xed\xa0\xbd", b"\xc0\x80"])
def test_what_is_not_utf8_is_refused(raw: bytes) -> None:
    """Stray bytes, a cut character, surrogates alone or in the wrong order, an overlong form."""
    with pytest.raises(JuteError) as caught:
        Decoder(b"..." + pack_bytes(raw), 3).read_string()
    assert caught.value.offset == 3


def test_a_pair_of_surrogates_is_one_character() -> None:
    """The server writes characters beyond the BMP as two surrogates of three bytes: U+1F600 here."""
    assert Decoder(pack_bytes(b"a\xed\xa0\xbd\xed\xb8\x80b")).read_string() == "a\U0001f600b"


def test_a_lone_surrogate_cannot_be_sent() -> None:
    """It has no UTF-8 form; the error is one for the user."""
    with pytest.raises(BadInput):
        jute.encode_string("\ud800")


def test_a_boolean_is_zero_or_one() -> None:
    """Any other byte means that something else stands here; in a multi header the byte itself is named."""
    with pytest.raises(JuteError) as caught:
        Decoder(b"\2").read_bool()
    assert caught.value.offset == 0
    with pytest.raises(JuteError) as caught:
        Decoder(struct.pack(">ibi", 4, 2, 0)).read_multi_header()
    assert caught.value.offset == 4


def test_bytes_left_over_are_refused() -> None:
    """A record that ends too early was read by the wrong layout."""
    decoder = Decoder(struct.pack(">i", 1) + b"?")
    decoder.read_int()
    with pytest.raises(JuteError, match="1 bytes left over at byte 4"):
        decoder.expect_end()


@given(st.sampled_from(sorted(READERS)), st.binary(max_size=100), st.integers(0, 20))
def test_random_bytes_give_a_value_or_a_jute_error(reader: str, noise: bytes, offset: int) -> None:
    """Whatever the bytes, a reader stays inside them, and its errors point inside them."""
    offset = min(offset, len(noise))
    decoder = Decoder(noise, offset)
    named = offset
    try:
        READERS[reader](decoder)
    except JuteError as error:
        named = error.offset
    assert offset <= named <= len(noise)
    assert offset <= decoder.offset <= len(noise)
