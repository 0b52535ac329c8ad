# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Bulk reads on the wire, compiled. The specification is zkmig/wire/bulk_plain.py: same bytes, same columns, same errors.

A reply is walked twice: once to see that it is sound and how much it holds, once to copy into columns that have been
made large enough. So a column grows once a reply, and an error leaves all of them as they were.
"""

from cpython cimport array
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy

import array as array_module

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    static inline int32_t zkmig_get32(const uint8_t *p) {
        uint32_t v; memcpy(&v, p, 4);
    #if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        v = __builtin_bswap32(v);
    #endif
        return (int32_t)v;
    }
    static inline int64_t zkmig_get64(const uint8_t *p) {
        uint64_t v; memcpy(&v, p, 8);
    #if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        v = __builtin_bswap64(v);
    #endif
        return (int64_t)v;
    }
    static inline void zkmig_put32(uint8_t *p, int32_t value) {
        uint32_t v = (uint32_t)value;
    #if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        v = __builtin_bswap32(v);
    #endif
        memcpy(p, &v, 4);
    }
    """
    int32_t zkmig_get32(const uint8_t *p) noexcept nogil
    int64_t zkmig_get64(const uint8_t *p) noexcept nogil
    void zkmig_put32(uint8_t *p, int32_t value) noexcept nogil

cdef enum:
    OP_GET_DATA = 4
    OP_GET_ACL = 6
    OP_GET_CHILDREN = 8
    OP_MULTI_READ = 22
    OP_ERROR = -1
    NO_NODE = -101
    SESSION_EXPIRED = -112
    REPLY_HEADER_BYTES = 16
    REPLY_BYTES_MAX = 1 << 30
    PART_HEADER_BYTES = 9
    STAT_BYTES = 68
    ACL_BYTES_MIN = 12
    MULTI_OVERHEAD = 17

cdef int64_t A_RESULT = <int64_t>1 << 40  # where an error code is looked for; those have 32 bits

# Offsets of the fields within a Stat on the wire, and which columns (by position) are 64 bits wide.
cdef int* STAT_AT = [0, 8, 16, 24, 32, 36, 40, 44, 52, 56, 60]
cdef bint* STAT_IS_LONG = [1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1]


# -- requests ---------------------------------------------------------------------------------------------------------


def fitting(array.array offsets, array.array nodes, Py_ssize_t request_bytes_max):
    """See the twin."""
    cdef const uint64_t *at = <const uint64_t *>offsets.data.as_ulonglongs
    cdef const int *node = nodes.data.as_ints
    cdef Py_ssize_t left = request_bytes_max - MULTI_OVERHEAD, i, count = len(nodes)
    for i in range(count):
        left -= PART_HEADER_BYTES + 5 + <Py_ssize_t>(at[node[i] + 1] - at[node[i]])
        if left < 0:
            return max(i, 1)
    return count


def encode_reads(const uint8_t[::1] paths, array.array offsets, array.array nodes, int opcode, int xid):
    """See the twin."""
    cdef const uint64_t *at = <const uint64_t *>offsets.data.as_ulonglongs
    cdef const int *node = nodes.data.as_ints
    cdef Py_ssize_t count = len(nodes), i
    cdef uint64_t start, size
    cdef Py_ssize_t total = 12 + PART_HEADER_BYTES
    for i in range(count):
        total += PART_HEADER_BYTES + 5 + <Py_ssize_t>(at[node[i] + 1] - at[node[i]])
    cdef bytes frame = PyBytes_FromStringAndSize(NULL, total)
    cdef uint8_t *out = <uint8_t *>PyBytes_AS_STRING(frame)
    zkmig_put32(out, <int32_t>(total - 4))
    zkmig_put32(out + 4, xid)
    zkmig_put32(out + 8, OP_MULTI_READ)
    out += 12
    for i in range(count):
        start = at[node[i]]
        size = at[node[i] + 1] - start
        zkmig_put32(out, opcode)
        out[4] = 0
        zkmig_put32(out + 5, -1)
        zkmig_put32(out + 9, <int32_t>size)
        out += 13
        if size:
            memcpy(out, &paths[start], size)
        out += size
        out[0] = 0
        out += 1
    zkmig_put32(out, -1)
    out[4] = 1
    zkmig_put32(out + 5, -1)
    return frame


def encode_get_acls(const uint8_t[::1] paths, array.array offsets, array.array nodes, int xid):
    """See the twin."""
    cdef const uint64_t *at = <const uint64_t *>offsets.data.as_ulonglongs
    cdef const int *node = nodes.data.as_ints
    cdef Py_ssize_t count = len(nodes), i, total = 0
    cdef uint64_t start, size
    for i in range(count):
        total += 16 + <Py_ssize_t>(at[node[i] + 1] - at[node[i]])
    cdef bytes frames = PyBytes_FromStringAndSize(NULL, total)
    cdef uint8_t *out = <uint8_t *>PyBytes_AS_STRING(frames)
    for i in range(count):
        start = at[node[i]]
        size = at[node[i] + 1] - start
        zkmig_put32(out, <int32_t>(12 + size))
        zkmig_put32(out + 4, <int32_t>(xid + i))
        zkmig_put32(out + 8, OP_GET_ACL)
        zkmig_put32(out + 12, <int32_t>size)
        out += 16
        if size:
            memcpy(out, &paths[start], size)
        out += size
    return frames


# -- replies ----------------------------------------------------------------------------------------------------------


def take_frames(const uint8_t[::1] received, Py_ssize_t start, int64_t xid, Py_ssize_t count):
    """See the twin."""
    cdef Py_ssize_t taken = 0, end = received.shape[0]
    cdef int64_t zxid_last = 0, zxid
    cdef int32_t length
    cdef const uint8_t *at
    while taken < count and end - start >= 4 + REPLY_HEADER_BYTES:
        at = &received[start]
        length = zkmig_get32(at)
        if length < REPLY_HEADER_BYTES or length > REPLY_BYTES_MAX or zkmig_get32(at + 4) != xid + taken:
            break
        if zkmig_get32(at + 16) == SESSION_EXPIRED or length > end - start - 4:
            break
        zxid = zkmig_get64(at + 8)
        if zxid > zxid_last:
            zxid_last = zxid
        start += 4 + length
        taken += 1
    return start, taken, zxid_last


cdef struct Cursor:
    # Where a decoder is in a frame, and what went wrong: fault is a Fault, a and b fill in its text.
    const uint8_t *base
    Py_ssize_t offset
    Py_ssize_t end
    int fault
    int64_t a
    int64_t b

cdef enum Fault:
    FINE = 0
    TRUNCATED_HEADER
    NOT_BOOLEAN
    TOO_SHORT
    TOO_LONG
    WRONG_TYPE
    TRUNCATED_INT
    TRUNCATED_BUFFER
    BAD_BUFFER
    TRUNCATED_STAT
    LEFT_OVER
    BAD_COUNT_STRINGS
    BAD_COUNT_ACLS
    BAD_NAME
    NULL_STRING


cdef object explain(Cursor *cursor, object error, str operation):
    cdef int fault = cursor.fault
    if fault == TRUNCATED_HEADER:
        what = "truncated multi header"
    elif fault == NOT_BOOLEAN:
        what = f"boolean is {cursor.a}"
    elif fault == TOO_SHORT:
        what = f"reply to {cursor.b} parts ends after {cursor.a}"
    elif fault == TOO_LONG:
        what = "reply has more parts than the request"
    elif fault == WRONG_TYPE:
        what = f"part of type {cursor.a} answers {operation}"
    elif fault == TRUNCATED_INT:
        what = "truncated int"
    elif fault == TRUNCATED_BUFFER:
        what = "truncated buffer length"
    elif fault == BAD_BUFFER:
        what = f"buffer of {cursor.a} bytes where {cursor.b} are left"
    elif fault == TRUNCATED_STAT:
        what = "truncated stat"
    elif fault == LEFT_OVER:
        what = f"{cursor.a} bytes left over"
    elif fault == BAD_COUNT_STRINGS:
        what = f"vector of {cursor.a} strings where {cursor.b} bytes are left"
    elif fault == BAD_COUNT_ACLS:
        what = f"vector of {cursor.a} ACL entries where {cursor.b} bytes are left"
    elif fault == BAD_NAME:
        what = "a child's name is null, empty or holds a slash"
    else:
        what = "string of -1 bytes"
    return error(what, cursor.offset)


cdef inline bint fail(Cursor *cursor, int fault, int64_t a=0, int64_t b=0) noexcept nogil:
    cursor.fault = fault
    cursor.a = a
    cursor.b = b
    return False


cdef inline bint part_header(
    Cursor *cursor, int opcode, Py_ssize_t count, Py_ssize_t total, int64_t *code
) noexcept nogil:
    """code: of a part that failed, else A_RESULT."""
    cdef const uint8_t *at = cursor.base + cursor.offset
    cdef int32_t kind
    if cursor.end - cursor.offset < PART_HEADER_BYTES:
        return fail(cursor, TRUNCATED_HEADER)
    if at[4] > 1:
        cursor.offset += 4
        return fail(cursor, NOT_BOOLEAN, at[4])
    kind = zkmig_get32(at)
    if at[4]:
        return fail(cursor, TOO_SHORT, count, total)
    if kind == OP_ERROR:
        cursor.offset += PART_HEADER_BYTES
        if cursor.end - cursor.offset < 4:
            return fail(cursor, TRUNCATED_INT)
        code[0] = zkmig_get32(at + PART_HEADER_BYTES)
        cursor.offset += 4
        return True
    if kind != opcode:
        return fail(cursor, WRONG_TYPE, kind)
    cursor.offset += PART_HEADER_BYTES
    code[0] = A_RESULT
    return True


cdef inline bint reply_end(Cursor *cursor) noexcept nogil:
    cdef const uint8_t *at = cursor.base + cursor.offset
    if cursor.end - cursor.offset < PART_HEADER_BYTES:
        return fail(cursor, TRUNCATED_HEADER)
    if at[4] > 1:
        cursor.offset += 4
        return fail(cursor, NOT_BOOLEAN, at[4])
    if not at[4]:
        return fail(cursor, TOO_LONG)
    cursor.offset += PART_HEADER_BYTES
    if cursor.offset != cursor.end:
        return fail(cursor, LEFT_OVER, cursor.end - cursor.offset)
    return True


cdef inline bint buffer_field(Cursor *cursor, const uint8_t **at, int32_t *size) noexcept nogil:
    """size: -1 for null."""
    cdef int32_t length
    if cursor.end - cursor.offset < 4:
        return fail(cursor, TRUNCATED_BUFFER)
    length = zkmig_get32(cursor.base + cursor.offset)
    if length < -1 or length > cursor.end - cursor.offset - 4:
        return fail(cursor, BAD_BUFFER, length, cursor.end - cursor.offset - 4)
    at[0] = cursor.base + cursor.offset + 4
    size[0] = length
    cursor.offset += 4 + (length if length > 0 else 0)
    return True


cdef inline bint stat_field(Cursor *cursor) noexcept nogil:
    if cursor.end - cursor.offset < STAT_BYTES:
        return fail(cursor, TRUNCATED_STAT)
    cursor.offset += STAT_BYTES
    return True


cdef inline bint count_field(Cursor *cursor, int fault, Py_ssize_t element_bytes_min, int32_t *count) noexcept nogil:
    cdef Py_ssize_t left
    if cursor.end - cursor.offset < 4:
        return fail(cursor, TRUNCATED_INT)
    count[0] = zkmig_get32(cursor.base + cursor.offset)
    left = cursor.end - cursor.offset - 4
    if count[0] < 0 or count[0] * element_bytes_min > left:
        return fail(cursor, fault, count[0], left)
    cursor.offset += 4
    return True


cdef inline bint name_field(Cursor *cursor, const uint8_t **at, int32_t *size) noexcept nogil:
    cdef Py_ssize_t offset = cursor.offset
    if not buffer_field(cursor, at, size):
        return False
    if size[0] <= 0 or memchr(at[0], c"/", size[0]) != NULL:
        cursor.offset = offset
        return fail(cursor, BAD_NAME)
    return True


cdef void grow(array.array column, Py_ssize_t count) except *:
    array.resize_smart(column, len(column) + count)


def decode_data(
    bytes frame,
    array.array nodes,
    tuple asked,
    tuple columns,
    object stats,
    array.array origins,
    object error,
):
    """See the twin."""
    cdef const uint8_t[::1] asked_paths = asked[0]
    cdef array.array asked_offsets = asked[1]
    cdef const uint64_t *asked_at = <const uint64_t *>asked_offsets.data.as_ulonglongs
    cdef const int *node = nodes.data.as_ints
    cdef Py_ssize_t total = len(nodes), i, found = 0, path_bytes = 0, data_bytes = 0
    cdef Cursor cursor
    cdef const uint8_t *at = NULL
    cdef int32_t size = 0
    cdef int64_t code = 0
    cdef list absent = []
    cdef object refusal = None
    cursor.base = <const uint8_t *>PyBytes_AS_STRING(frame)
    cursor.offset = REPLY_HEADER_BYTES
    cursor.end = len(frame)
    for i in range(total):
        if not part_header(&cursor, OP_GET_DATA, i, total, &code):
            raise explain(&cursor, error, "getData")
        if code == A_RESULT:
            if not buffer_field(&cursor, &at, &size) or not stat_field(&cursor):
                raise explain(&cursor, error, "getData")
            found += 1
            path_bytes += <Py_ssize_t>(asked_at[node[i] + 1] - asked_at[node[i]])
            data_bytes += size if size > 0 else 0
        elif code == NO_NODE:
            absent.append(node[i])
        elif refusal is None:
            refusal = (node[i], code)
    if not reply_end(&cursor):
        raise explain(&cursor, error, "getData")
    if refusal is not None:
        return absent, refusal

    cdef bytearray paths = columns[0]
    cdef array.array path_offsets = columns[1]
    cdef bytearray data = columns[2]
    cdef array.array data_offsets = columns[3]
    cdef bytearray nulls = columns[4]
    cdef array.array column
    cdef Py_ssize_t first = len(origins), path_at = PyByteArray_GET_SIZE(paths), data_at = PyByteArray_GET_SIZE(data)
    cdef Py_ssize_t null_at = PyByteArray_GET_SIZE(nulls), k, field
    PyByteArray_Resize(paths, path_at + path_bytes)
    PyByteArray_Resize(data, data_at + data_bytes)
    PyByteArray_Resize(nulls, null_at + found)
    cdef Py_ssize_t path_first = len(path_offsets), data_first = len(data_offsets), stat_first
    grow(path_offsets, found)
    grow(data_offsets, found)
    grow(origins, found)
    cdef int64_t *longs[11]
    cdef int32_t *ints[11]
    for field in range(11):
        column = stats[field]
        stat_first = len(column)
        grow(column, found)
        if STAT_IS_LONG[field]:
            longs[field] = <int64_t *>column.data.as_longlongs + stat_first
        else:
            ints[field] = <int32_t *>column.data.as_ints + stat_first
    cdef uint8_t *path_out = <uint8_t *>PyByteArray_AS_STRING(paths)
    cdef uint8_t *data_out = <uint8_t *>PyByteArray_AS_STRING(data)
    cdef uint8_t *null_out = <uint8_t *>PyByteArray_AS_STRING(nulls) + null_at
    cdef uint64_t *path_ends = <uint64_t *>path_offsets.data.as_ulonglongs + path_first
    cdef uint64_t *data_ends = <uint64_t *>data_offsets.data.as_ulonglongs + data_first
    cdef int *origin_out = origins.data.as_ints + first
    cdef uint64_t start, length
    cursor.offset = REPLY_HEADER_BYTES
    k = 0
    for i in range(total):
        part_header(&cursor, OP_GET_DATA, i, total, &code)
        if code != A_RESULT:
            continue
        buffer_field(&cursor, &at, &size)
        null_out[k] = size < 0
        if size > 0:
            memcpy(data_out + data_at, at, size)
            data_at += size
        data_ends[k] = data_at
        start = asked_at[node[i]]
        length = asked_at[node[i] + 1] - start
        if length:
            memcpy(path_out + path_at, &asked_paths[start], length)
        path_at += length
        path_ends[k] = path_at
        at = cursor.base + cursor.offset
        for field in range(11):
            if STAT_IS_LONG[field]:
                longs[field][k] = zkmig_get64(at + STAT_AT[field])
            else:
                ints[field][k] = zkmig_get32(at + STAT_AT[field])
        cursor.offset += STAT_BYTES
        origin_out[k] = node[i]
        k += 1
    return absent, None


def decode_children(
    bytes frame,
    array.array nodes,
    tuple asked,
    tuple excluded,
    tuple columns,
    array.array counts,
    object error,
):
    """See the twin."""
    cdef const uint8_t[::1] asked_paths = asked[0]
    cdef array.array asked_offsets = asked[1]
    cdef const uint64_t *asked_at = <const uint64_t *>asked_offsets.data.as_ulonglongs
    cdef const int *node = nodes.data.as_ints
    cdef Py_ssize_t total = len(nodes), i, j, children = 0, path_bytes = 0
    cdef object left_out = excluded[0], left_out_parents = excluded[1]
    cdef bint any_excluded = len(left_out_parents) > 0, is_root
    cdef Cursor cursor
    cdef const uint8_t *at = NULL
    cdef int32_t size = 0, count = 0
    cdef int64_t code = 0
    cdef uint64_t start, length
    cdef list absent = []
    cdef object refusal = None
    cursor.base = <const uint8_t *>PyBytes_AS_STRING(frame)
    cursor.offset = REPLY_HEADER_BYTES
    cursor.end = len(frame)
    for i in range(total):
        if not part_header(&cursor, OP_GET_CHILDREN, i, total, &code):
            raise explain(&cursor, error, "getChildren")
        if code == A_RESULT:
            start = asked_at[node[i]]
            length = asked_at[node[i] + 1] - start
            is_root = length == 1 and asked_paths[start] == c"/"
            if not count_field(&cursor, BAD_COUNT_STRINGS, 4, &count):
                raise explain(&cursor, error, "getChildren")
            for j in range(count):
                if not name_field(&cursor, &at, &size):
                    raise explain(&cursor, error, "getChildren")
                path_bytes += (0 if is_root else <Py_ssize_t>length) + 1 + size
            children += count
        elif code == NO_NODE:
            absent.append(node[i])
        elif refusal is None:
            refusal = (node[i], code)
    if not reply_end(&cursor):
        raise explain(&cursor, error, "getChildren")
    if refusal is not None:
        return absent, refusal

    cdef bytearray paths = columns[0]
    cdef array.array offsets = columns[1]
    cdef Py_ssize_t path_at = PyByteArray_GET_SIZE(paths), offset_first = len(offsets), count_first = len(counts)
    # Made large enough for all, cut to what is left when some were left out.
    PyByteArray_Resize(paths, path_at + path_bytes)
    grow(offsets, children)
    grow(counts, 2 * total)
    cdef uint8_t *out = <uint8_t *>PyByteArray_AS_STRING(paths)
    cdef uint64_t *ends = <uint64_t *>offsets.data.as_ulonglongs + offset_first
    cdef int *count_out = counts.data.as_ints + count_first
    cdef Py_ssize_t k = 0, begin, head
    cdef bint is_filtered
    cdef int kept
    cursor.offset = REPLY_HEADER_BYTES
    for i in range(total):
        part_header(&cursor, OP_GET_CHILDREN, i, total, &code)
        count_out[2 * i] = count_out[2 * i + 1] = 0
        if code != A_RESULT:
            continue
        start = asked_at[node[i]]
        length = asked_at[node[i] + 1] - start
        head = 0 if length == 1 and asked_paths[start] == c"/" else <Py_ssize_t>length
        is_filtered = any_excluded and bytes(asked_paths[start : start + length]) in left_out_parents
        count_field(&cursor, BAD_COUNT_STRINGS, 4, &count)
        kept = 0
        for j in range(count):
            name_field(&cursor, &at, &size)
            begin = path_at
            if head:
                memcpy(out + path_at, &asked_paths[start], head)
                path_at += head
            out[path_at] = c"/"
            memcpy(out + path_at + 1, at, size)
            path_at += 1 + size
            if is_filtered and PyBytes_FromStringAndSize(<char *>out + begin, path_at - begin) in left_out:
                path_at = begin
                continue
            ends[k] = path_at
            k += 1
            kept += 1
        count_out[2 * i] = kept
        count_out[2 * i + 1] = count - kept
    if k < children:
        PyByteArray_Resize(paths, path_at)
        array.resize_smart(offsets, offset_first + k)
    return absent, None


def decode_acls(
    bytes frames,
    array.array nodes,
    tuple pins,
    array.array acl_ids,
    dict known,
    object error,
):
    """See the twin."""
    cdef array.array czxid_column = pins[0], aversion_column = pins[1]
    cdef const int64_t *czxids = <const int64_t *>czxid_column.data.as_longlongs
    cdef const int32_t *aversions = <const int32_t *>aversion_column.data.as_ints
    cdef const int *node = nodes.data.as_ints
    cdef Py_ssize_t total = len(nodes), i, j, part, start = 0, acl_end
    cdef const uint8_t *base = <const uint8_t *>PyBytes_AS_STRING(frames)
    cdef const uint8_t *at = NULL
    cdef Cursor cursor
    cdef int32_t size = 0, code, count = 0, length
    cdef list absent = [], moved = [], found = []
    cdef object refusal = None
    for i in range(total):
        if len(frames) - start < 4 + REPLY_HEADER_BYTES:
            raise error(f"{i} replies where {total} are due", start)
        length = zkmig_get32(base + start)
        if length < REPLY_HEADER_BYTES or length > len(frames) - start - 4:
            raise error(f"a frame of {length} bytes where {len(frames) - start - 4} are left", start)
        code = zkmig_get32(base + start + 16)
        cursor.base = base + start + 4
        cursor.offset = REPLY_HEADER_BYTES
        cursor.end = length
        start += 4 + length
        if code == NO_NODE:
            absent.append(node[i])
            continue
        if code:
            if refusal is None:
                refusal = (node[i], code)
            continue
        if not count_field(&cursor, BAD_COUNT_ACLS, ACL_BYTES_MIN, &count):
            raise explain(&cursor, error, "getACL")
        for j in range(count):
            if cursor.end - cursor.offset < 4:
                fail(&cursor, TRUNCATED_INT)
                raise explain(&cursor, error, "getACL")
            cursor.offset += 4
            for part in range(2):
                if not buffer_field(&cursor, &at, &size):
                    raise explain(&cursor, error, "getACL")
                if size < 0:
                    cursor.offset -= 4
                    fail(&cursor, NULL_STRING)
                    raise explain(&cursor, error, "getACL")
        acl_end = cursor.offset
        if not stat_field(&cursor):
            raise explain(&cursor, error, "getACL")
        if cursor.offset != cursor.end:
            fail(&cursor, LEFT_OVER, cursor.end - cursor.offset)
            raise explain(&cursor, error, "getACL")
        at = cursor.base + acl_end
        if zkmig_get64(at) == czxids[node[i]] and zkmig_get32(at + 40) == aversions[node[i]]:
            found.append((node[i], PyBytes_FromStringAndSize(<const char *>cursor.base + REPLY_HEADER_BYTES,
                                                             acl_end - REPLY_HEADER_BYTES)))
        else:
            moved.append(node[i])
    if start != len(frames):
        raise error(f"{len(frames) - start} bytes left over", start)
    if refusal is not None:
        return absent, moved, refusal, []
    cdef list new = []
    cdef uint32_t *ids = <uint32_t *>acl_ids.data.as_uints
    cdef tuple pair
    cdef object position
    for pair in found:
        position = known.get(pair[1])
        if position is None:
            position = len(known)
            known[pair[1]] = position
            new.append(pair[1])
        ids[<int>pair[0]] = position
    return absent, moved, None, new


# -- what was read, rescans -------------------------------------------------------------------------------------------


def survey(object stats, Py_ssize_t first):
    """See the twin."""
    cdef array.array mzxid_column = stats[1], cversion_column = stats[5]
    cdef array.array children_column = stats[9], pzxid_column = stats[10]
    cdef const int64_t *mzxid = <const int64_t *>mzxid_column.data.as_longlongs
    cdef const int64_t *pzxid = <const int64_t *>pzxid_column.data.as_longlongs
    cdef const int32_t *cversion = <const int32_t *>cversion_column.data.as_ints
    cdef const int32_t *children = <const int32_t *>children_column.data.as_ints
    cdef Py_ssize_t node, total = len(mzxid_column), inner_count = 0, odd_count = 0
    cdef int64_t newest = 0
    cdef array.array template = array_module.array("i")
    cdef array.array inner = array.clone(template, total - first, zero=False)
    cdef array.array odd = array.clone(template, 0, zero=False)
    cdef int *inner_out = inner.data.as_ints
    for node in range(first, total):
        if children[node]:
            inner_out[inner_count] = <int>node
            inner_count += 1
        if (<uint32_t>cversion[node] + <uint32_t>children[node]) & 1:
            odd.append(node)
        if mzxid[node] > newest:
            newest = mzxid[node]
        if pzxid[node] > newest:
            newest = pzxid[node]
    array.resize(inner, inner_count)
    return inner, odd, newest


def match_known(
    Py_ssize_t first,
    array.array origins,
    object stats,
    object known_stats,
    array.array acl_ids,
    array.array known_acl_ids,
    array.array acl_map,
):
    """See the twin."""
    cdef array.array czxid_column = stats[0], cversion_column = stats[5], aversion_column = stats[6]
    cdef array.array children_column = stats[9], pzxid_column = stats[10]
    cdef array.array known_czxid_column = known_stats[0], known_cversion_column = known_stats[5]
    cdef array.array known_aversion_column = known_stats[6], known_pzxid_column = known_stats[10]
    cdef const int64_t *czxid = <const int64_t *>czxid_column.data.as_longlongs
    cdef const int64_t *pzxid = <const int64_t *>pzxid_column.data.as_longlongs
    cdef const int32_t *cversion = <const int32_t *>cversion_column.data.as_ints
    cdef const int32_t *aversion = <const int32_t *>aversion_column.data.as_ints
    cdef const int32_t *children = <const int32_t *>children_column.data.as_ints
    cdef const int64_t *known_czxid = <const int64_t *>known_czxid_column.data.as_longlongs
    cdef const int64_t *known_pzxid = <const int64_t *>known_pzxid_column.data.as_longlongs
    cdef const int32_t *known_cversion = <const int32_t *>known_cversion_column.data.as_ints
    cdef const int32_t *known_aversion = <const int32_t *>known_aversion_column.data.as_ints
    cdef uint32_t *ids = <uint32_t *>acl_ids.data.as_uints
    cdef const uint32_t *known_ids = <const uint32_t *>known_acl_ids.data.as_uints
    cdef const uint32_t *mapped = <const uint32_t *>acl_map.data.as_uints
    cdef const int *origin = origins.data.as_ints
    cdef Py_ssize_t node, total = len(czxid_column), was, acl_count = 0, list_count = 0
    cdef bint is_same
    cdef array.array template = array_module.array("i")
    cdef array.array acls = array.clone(template, total - first, zero=False)
    cdef array.array lists = array.clone(template, total - first, zero=False)
    for node in range(first, total):
        was = origin[node]
        is_same = czxid[node] == known_czxid[was]
        if is_same and aversion[node] == known_aversion[was]:
            ids[node] = mapped[known_ids[was]]
        else:
            acls.data.as_ints[acl_count] = <int>node
            acl_count += 1
        if children[node] and not (
            is_same and pzxid[node] == known_pzxid[was] and cversion[node] == known_cversion[was]
        ):
            lists.data.as_ints[list_count] = <int>node
            list_count += 1
    array.resize(acls, acl_count)
    array.resize(lists, list_count)
    return acls, lists


def miscounted(array.array parents, array.array num_children):
    """See the twin."""
    cdef Py_ssize_t total = len(num_children), i, wrong = 0
    cdef array.array template = array_module.array("i")
    cdef array.array counts = array.clone(template, total, zero=True)
    cdef int *count = counts.data.as_ints
    cdef const int *parent = parents.data.as_ints
    cdef const int32_t *wanted = <const int32_t *>num_children.data.as_ints
    for i in range(len(parents)):
        if parent[i] >= 0:
            count[parent[i]] += 1
    for i in range(total):
        if count[i] != wanted[i]:
            count[wrong] = <int>i
            wrong += 1
    array.resize(counts, wrong)
    return counts
