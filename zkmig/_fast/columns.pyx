# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Columns in another order, their pieces, shape and soundness, compiled. The specification is zkmig/model/columns_plain.py.

Nothing is taken on trust: offsets and orders are checked before anything is read through them.
"""

from array import array

from cpython cimport array as arrays
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

include "paths.pxi"

# Fetching ahead, and scans that the compiler turns into vector instructions.
cdef extern from *:
    """
    #if defined(__GNUC__)
    #define ZKMIG_PREFETCH(address) __builtin_prefetch(address)
    #else
    #define ZKMIG_PREFETCH(address) ((void)(address))
    #endif

    /* Whether all bytes are printable ASCII and none is a "." after "/", so that no path needs a closer look. */
    static int zkmig_is_plain(const uint8_t *p, size_t size) {
        uint8_t odd = 0;
        for (size_t i = 0; i < size; i++) odd |= (uint8_t)(p[i] - 0x20) > 0x5E;
        if (odd) return 0;
        for (size_t i = 1; i < size; i++) odd |= (p[i - 1] == '/') & (p[i] == '.');
        return !odd;
    }

    static uint8_t zkmig_max_u8(const uint8_t *p, size_t size) {
        uint8_t most = 0;
        for (size_t i = 0; i < size; i++) most = p[i] > most ? p[i] : most;
        return most;
    }

    static uint32_t zkmig_max_u32(const uint32_t *p, size_t size) {
        uint32_t most = 0;
        for (size_t i = 0; i < size; i++) most = p[i] > most ? p[i] : most;
        return most;
    }
    """
    void ZKMIG_PREFETCH(const void *address) noexcept nogil
    bint zkmig_is_plain(const uint8_t *p, size_t size) noexcept nogil
    uint8_t zkmig_max_u8(const uint8_t *p, size_t size) noexcept nogil
    uint32_t zkmig_max_u32(const uint32_t *p, size_t size) noexcept nogil


cdef enum Fault:
    SOUND = 0
    NOT_A_PATH = 1
    ORPHAN = 2
    TWICE = 3
    UNSORTED = 4
    ACL_UNKNOWN = 5
    MARKER_UNKNOWN = 6
    TTL_MISPLACED = 7
    OWNER_MISPLACED = 8
    EPHEMERAL_PARENT = 9
    NULL_WITH_DATA = 10


cdef enum:
    KIND_TTL = 2
    KIND_EPHEMERAL = 3
    KINDS = 4
    LENGTH_MAX = 0x7FFFFFFF
    AHEAD = 12  # nodes whose bytes are fetched before their turn
    CHECK_NODES = 4096


cdef arrays.array _u64 = array("Q")
cdef arrays.array _u32 = array("I")
cdef arrays.array _i32 = array("i")


# -- another order ---------------------------------------------------------------------------------------------------

cdef int demand_within(const int32_t[::1] order, Py_ssize_t count) except -1:
    cdef Py_ssize_t i
    cdef bint is_outside = False
    for i in range(order.shape[0]):
        is_outside |= order[i] < 0 or order[i] >= count
    if is_outside:
        raise ValueError("an order that points outside the column")
    return 0


def reordered(arrays.array column not None, const int32_t[::1] order not None):
    """The column's values in another order."""
    cdef Py_ssize_t i, count = order.shape[0]
    cdef arrays.array out
    demand_within(order, len(column))
    out = arrays.clone(column, count, zero=False)
    if column.ob_descr.itemsize == 8:
        for i in range(count):
            (<uint64_t *>out.data.as_chars)[i] = (<uint64_t *>column.data.as_chars)[order[i]]
    elif column.ob_descr.itemsize == 4:
        for i in range(count):
            (<uint32_t *>out.data.as_chars)[i] = (<uint32_t *>column.data.as_chars)[order[i]]
    else:
        raise ValueError("a column of another width")
    return out


def reordered_bytes(const uint8_t[::1] column not None, const int32_t[::1] order not None):
    """The same for a column of bytes."""
    cdef Py_ssize_t i, count = order.shape[0]
    cdef uint8_t *bytes_out
    demand_within(order, column.shape[0])
    out = PyBytes_FromStringAndSize(NULL, count)
    bytes_out = <uint8_t *>PyBytes_AS_STRING(out)
    for i in range(count):
        bytes_out[i] = column[order[i]]
    return out


def reordered_blob(const uint8_t[::1] blob not None, const uint64_t[::1] offsets not None,
                   const int32_t[::1] order not None):
    """The same for a blob with its offsets."""
    cdef Py_ssize_t i, count = order.shape[0]
    cdef arrays.array out_offsets
    cdef uint64_t *cuts
    cdef uint64_t position = 0, start
    cdef uint8_t *bytes_out
    cdef const uint8_t *bytes_in
    demand_division(offsets, blob.shape[0])
    demand_within(order, offsets.shape[0] - 1)
    out_offsets = arrays.clone(_u64, count + 1, zero=False)
    cuts = <uint64_t *>out_offsets.data.as_chars
    cuts[0] = 0
    for i in range(count):
        position += offsets[order[i] + 1] - offsets[order[i]]
        cuts[i + 1] = position
    out = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>position)
    bytes_out = <uint8_t *>PyBytes_AS_STRING(out)
    bytes_in = &blob[0]
    with nogil:
        for i in range(count):
            if i + AHEAD < count:
                ZKMIG_PREFETCH(bytes_in + offsets[order[i + AHEAD]])
                ZKMIG_PREFETCH(bytes_in + offsets[order[i + AHEAD]] + 64)
            memcpy(bytes_out + cuts[i], bytes_in + offsets[order[i]], cuts[i + 1] - cuts[i])
    return out, out_offsets


# -- pieces of columns ------------------------------------------------------------------------------------------------

cdef int demand_range(Py_ssize_t count, Py_ssize_t start, Py_ssize_t stop) except -1:
    if not 0 <= start <= stop <= count:
        raise ValueError("a range outside the column")
    return 0


def shifted(arrays.array column not None, Py_ssize_t start, Py_ssize_t stop, int64_t by):
    """column[start:stop], each with `by` added, which may be below zero. Of type Q or i."""
    cdef Py_ssize_t i
    cdef arrays.array out
    demand_range(len(column), start, stop)
    out = arrays.clone(column, stop - start, zero=False)
    if column.ob_descr.typecode == c"Q":
        for i in range(stop - start):
            (<uint64_t *>out.data.as_chars)[i] = (<uint64_t *>column.data.as_chars)[start + i] + <uint64_t>by
    elif column.ob_descr.typecode == c"i":
        for i in range(stop - start):
            out.data.as_ints[i] = <int32_t>(column.data.as_ints[start + i] + by)
    else:
        raise ValueError("a column of another type")
    return out


def translated(const uint32_t[::1] ids not None, Py_ssize_t start, Py_ssize_t stop,
               const uint32_t[::1] table not None):
    """table[id] for each of ids[start:stop]."""
    cdef Py_ssize_t i, entries = table.shape[0]
    cdef arrays.array out
    demand_range(ids.shape[0], start, stop)
    out = arrays.clone(_u32, stop - start, zero=False)
    for i in range(stop - start):
        if ids[start + i] >= <uint64_t>entries:
            raise ValueError("an id outside the table")
        out.data.as_uints[i] = table[ids[start + i]]
    return out


def kinds_of(const int64_t[::1] owners not None, Py_ssize_t start):
    """Ephemeral where a session owns the node, else persistent, from `start` on."""
    cdef Py_ssize_t i, count = owners.shape[0] - start
    cdef uint8_t *kinds
    demand_range(owners.shape[0], start, owners.shape[0])
    out = PyBytes_FromStringAndSize(NULL, count)
    kinds = <uint8_t *>PyBytes_AS_STRING(out)
    for i in range(count):
        kinds[i] = KIND_EPHEMERAL if owners[start + i] else 0
    return out


def lengths(const uint64_t[::1] offsets not None, const uint8_t[::1] nulls not None, Py_ssize_t start,
            Py_ssize_t stop):
    """Bytes of each of the slices from `start` to `stop`; -1 for a null one. nulls may be empty: then none is."""
    cdef Py_ssize_t i
    cdef arrays.array out
    cdef int32_t *sizes
    cdef uint64_t size
    cdef bint is_outside = False, has_nulls = nulls.shape[0] > 0
    demand_range(offsets.shape[0] - 1, start, stop)
    if has_nulls:
        demand_range(nulls.shape[0], start, stop)
    out = arrays.clone(_i32, stop - start, zero=False)
    sizes = <int32_t *>out.data.as_ints
    for i in range(stop - start):
        size = offsets[start + i + 1] - offsets[start + i]  # one below zero wraps to a large one
        is_outside |= size > LENGTH_MAX
        sizes[i] = -1 if has_nulls and nulls[start + i] else <int32_t>size
    if is_outside:
        raise ValueError("a length out of range")
    return out


def cuts(const int32_t[::1] lengths not None, uint64_t first):
    """The inverse: where each slice ends if the first begins at `first`, and 1 for each that is null."""
    cdef Py_ssize_t i, count = lengths.shape[0]
    cdef arrays.array out = arrays.clone(_u64, count, zero=False)
    cdef uint64_t *ends = <uint64_t *>out.data.as_chars
    cdef uint8_t *is_null
    nulls = PyBytes_FromStringAndSize(NULL, count)
    is_null = <uint8_t *>PyBytes_AS_STRING(nulls)
    for i in range(count):
        if lengths[i] < -1:
            raise ValueError("a length below -1")
        is_null[i] = lengths[i] < 0
        first += <uint64_t>max(lengths[i], 0)
        ends[i] = first
    return out, nulls


# -- soundness --------------------------------------------------------------------------------------------------------

def divides(const uint64_t[::1] offsets not None, Py_ssize_t blob_bytes):
    """Whether offsets begin at 0, never fall, and end at the end of their blob."""
    return do_divide(offsets, blob_bytes)


cdef inline bint is_tail(uint8_t byte) noexcept nogil:
    return (byte & 0xC0) == 0x80


cdef inline Py_ssize_t letter_bytes(const uint8_t *p, Py_ssize_t left) noexcept nogil:
    """Bytes of the UTF-8 character that begins here; 0 if it is none, or one that paths may not have."""
    if p[0] < 0x80:
        return 0 if p[0] < 0x20 or p[0] == 0x7F else 1
    if p[0] < 0xE0:
        # C0 and C1 are no beginnings; C2 80 to C2 9F are controls.
        if p[0] < 0xC2 or left < 2 or not is_tail(p[1]) or (p[0] == 0xC2 and p[1] < 0xA0):
            return 0
        return 2
    if p[0] > 0xEF or left < 3 or not is_tail(p[1]) or not is_tail(p[2]):
        return 0
    if p[0] == 0xE0 and p[1] < 0xA0:
        return 0  # longer than it need be
    if (p[0] == 0xED and p[1] >= 0xA0) or p[0] == 0xEE:
        return 0  # surrogates, private use
    if p[0] == 0xEF and (p[1] <= 0xA3 or (p[1] == 0xBF and p[2] >= 0xB0)):
        return 0  # private use, U+FFF0 and on
    return 3


cdef bint is_legal(const uint8_t *path, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i = 0, step
    cdef Py_ssize_t end
    while i < size:
        step = letter_bytes(path + i, size - i)
        if step == 0:
            return False
        if path[i] == c"/" and i + 1 < size and path[i + 1] == c".":
            end = i + 3 if i + 2 < size and path[i + 2] == c"." else i + 2
            if end == size or path[end] == c"/":
                return False
        i += step
    return True


def first_refused(const uint8_t[::1] blob not None, const uint64_t[::1] offsets not None):
    """The first node whose path has a character or a component that ZooKeeper refuses; -1 if none has."""
    cdef Py_ssize_t count, first, last, node
    cdef const uint8_t *paths
    demand_division(offsets, blob.shape[0])
    count = offsets.shape[0] - 1
    paths = &blob[0]
    with nogil:
        first = 0
        while first < count:
            last = min(first + CHECK_NODES, count)
            if not zkmig_is_plain(paths + offsets[first], offsets[last] - offsets[first]):
                for node in range(first, last):
                    if not is_legal(paths + offsets[node], offsets[node + 1] - offsets[node]):
                        with gil:
                            return node
            first = last
    return -1


cdef Fault find_shape(const Paths *paths, int32_t *parents, int32_t *ends, Py_ssize_t *faulty) noexcept nogil:
    """The open nodes are the node before and its ancestors; the one closed last is the sibling before."""
    cdef Py_ssize_t node, slash, name, head
    cdef int32_t above = -1, sibling
    cdef const uint8_t *path
    cdef size_t size
    cdef int compared
    for node in range(paths.count):
        faulty[0] = node
        path, size = path_at(paths, node), size_at(paths, node)
        slash = last_slash(path, size)
        if slash < 0 or (slash == <Py_ssize_t>size - 1 and (size > 1 or node)):
            return NOT_A_PATH
        if node:
            head = slash if slash else 1
            sibling = -1
            while above >= 0 and (size_at(paths, above) != <size_t>head
                                  or memcmp(path_at(paths, above), path, head) != 0):
                ends[above] = <int32_t>node
                sibling = above
                above = parents[above]
            if above < 0:
                return ORPHAN
            if sibling >= 0:
                # Below "/" there may be "//a", whose name begins later than its sibling's.
                name = slash + 1 if head > 1 else last_slash(path_at(paths, sibling), size_at(paths, sibling)) + 1
                compared = zkmig_compare(path + slash + 1, size - slash - 1, path_at(paths, sibling) + name,
                                         size_at(paths, sibling) - name)
                if compared <= 0:
                    return UNSORTED if compared else TWICE
        parents[node] = above
        above = <int32_t>node
    while above >= 0:
        ends[above] = <int32_t>paths.count
        above = parents[above]
    return SOUND


def shape(const uint8_t[::1] blob not None, const uint64_t[::1] offsets not None):
    """(parents, ends, fault, node) of paths in tree order."""
    cdef Paths paths
    cdef arrays.array parents, ends
    cdef int32_t *parents_out
    cdef int32_t *ends_out
    cdef Py_ssize_t faulty = -1
    cdef Fault fault
    demand_division(offsets, blob.shape[0])
    paths.count = offsets.shape[0] - 1
    paths.blob = &blob[0]
    paths.offsets = &offsets[0]
    parents = arrays.clone(_i32, paths.count, zero=paths.count > 0)
    ends = arrays.clone(_i32, paths.count, zero=paths.count > 0)
    parents_out, ends_out = <int32_t *>parents.data.as_ints, <int32_t *>ends.data.as_ints
    with nogil:
        fault = find_shape(&paths, parents_out, ends_out, &faulty)
    return parents, ends, <int>fault, faulty if fault else -1


def first_unsound(
    const uint32_t[::1] acl_ids not None,
    Py_ssize_t acls,
    const uint8_t[::1] kinds not None,
    const uint8_t[::1] nulls not None,
    const uint64_t[::1] data_offsets not None,
    const int64_t[::1] ttl_nodes not None,
    const int64_t[::1] owners not None,
    const int32_t[::1] ends not None,
):
    """(fault, node) of values that have no meaning, or not together."""
    cdef Py_ssize_t node, i, count = kinds.shape[0], with_ttl = 0
    if not count or not (
        acl_ids.shape[0] == nulls.shape[0] == data_offsets.shape[0] - 1 == owners.shape[0] == ends.shape[0] == count
    ):
        raise ValueError("columns are not of one length, or hold no node")
    if zkmig_max_u32(&acl_ids[0], count) >= <uint64_t>max(acls, 0):
        return ACL_UNKNOWN, -1
    if zkmig_max_u8(&kinds[0], count) >= KINDS or zkmig_max_u8(&nulls[0], count) > 1:
        return MARKER_UNKNOWN, -1
    for node in range(count):
        with_ttl += kinds[node] == KIND_TTL
    if with_ttl != ttl_nodes.shape[0]:
        return TTL_MISPLACED, -1
    for i in range(with_ttl):
        if ttl_nodes[i] < 0 or ttl_nodes[i] >= count or kinds[ttl_nodes[i]] != KIND_TTL:
            return TTL_MISPLACED, -1
    for node in range(count):
        if (kinds[node] == KIND_EPHEMERAL) != (owners[node] != 0):
            return OWNER_MISPLACED, node
        if owners[node] and ends[node] != node + 1:
            return EPHEMERAL_PARENT, node
    for node in range(count):
        if nulls[node] and data_offsets[node] != data_offsets[node + 1]:
            return NULL_WITH_DATA, node
    return SOUND, -1
