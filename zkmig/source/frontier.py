"""The frontier of a scan: how far it may reach ahead among znodes of which nobody knows how large they are.

Of a parent with many children a sample goes ahead: nothing says how large a znode is before it has been read, and a
thousand of 1 MB in one reply would end a server whose heap holds them but once. If the sample is large, requests for
the rest are cut to it.
"""

from __future__ import annotations

from typing import Final

WIDE_CHILDREN: Final = 64
"""More children than this make a parent wide."""

SAMPLE_CHILDREN: Final = 8
"""Children of a wide parent that are read before the others are asked for."""

LARGE_BYTES: Final = 4_096
"""Mean bytes of a sample above which the other children are taken to be as large."""
