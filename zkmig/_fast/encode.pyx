# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Creates over columns, encoded and measured. The specification is zkmig/plan/creates_plain.py and
zkmig/epoch/created_plain.py; both give the same results and errors. No index is used before it was checked.
"""

from array import array

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    HEADER_BYTES = 9
    FIXED_BYTES = 21  # header, lengths of path and data, flags
    STAT_BYTES = 68
    KIND_TTL = 2
    KINDS = 3
    OP_CREATE = 1
    OP_DELETE = 2
    OP_SET_DATA = 5
    OP_CHECK = 13
    OP_CREATE2 = 15
    OP_CREATE_CONTAINER = 19
    OP_CREATE_TTL = 21

cdef int32_t[3] OPCODES = [OP_CREATE, OP_CREATE_CONTAINER, OP_CREATE_TTL]
cdef int32_t[3] FLAGS = [0, 4, 5]


cdef inline char* put_int(char* out, uint32_t value) noexcept nogil:
    out[0] = <char>(value >> 24)
    out[1] = <char>(value >> 16)
    out[2] = <char>(value >> 8)
    out[3] = <char>value
    return out + 4


cdef inline int32_t get_int(const uint8_t* at) noexcept nogil:
    return <int32_t>(<uint32_t>at[0] << 24 | <uint32_t>at[1] << 16 | <uint32_t>at[2] << 8 | <uint32_t>at[3])


cdef inline int check_slice(const uint64_t[::1] offsets, Py_ssize_t index, Py_ssize_t size) except -1:
    if not offsets[index] <= offsets[index + 1] <= <uint64_t>size:
        raise ValueError(f"offsets {offsets[index]} and {offsets[index + 1]} in {size} bytes")
    return 0


cdef inline int check_create(Py_ssize_t node, uint32_t acl_id, Py_ssize_t acl_count, uint8_t kind) except -1:
    if kind >= KINDS:
        raise ValueError(f"create {node} is of kind {kind}")
    if <Py_ssize_t>acl_id >= acl_count:
        raise ValueError(f"create {node} has ACL {acl_id} of {acl_count}")
    return 0


# -- columns of a plan from those of a snapshot -----------------------------------------------------------------------

def relocate(
    const uint8_t[::1] blob, const uint64_t[::1] offsets, const int32_t[::1] nodes, Py_ssize_t strip, bytes prefix
):
    return _collect(blob, offsets, nodes, strip, prefix, True)


def gather(const uint8_t[::1] blob, const uint64_t[::1] offsets, const int32_t[::1] nodes):
    return _collect(blob, offsets, nodes, 0, b"", False)


cdef _collect(
    const uint8_t[::1] blob,
    const uint64_t[::1] offsets,
    const int32_t[::1] nodes,
    Py_ssize_t strip,
    bytes prefix,
    bint as_paths,
):
    cdef Py_ssize_t count = nodes.shape[0], nodes_there = offsets.shape[0] - 1, i, node, size, total = 0
    cdef Py_ssize_t prefix_size = len(prefix)
    cdef const char* prefix_at = PyBytes_AS_STRING(prefix)
    made = array("Q", bytes(8 * (count + 1)))
    cdef uint64_t[::1] out_offsets = made
    for i in range(count):
        node = nodes[i]
        if not 0 <= node < nodes_there:
            raise ValueError(f"node {node} of {nodes_there}")
        check_slice(offsets, node, blob.shape[0])
        total += prefix_size + max(_size(blob, offsets, node, strip, as_paths), 0)
        if as_paths and prefix_size == 0 and _size(blob, offsets, node, strip, True) == 0:
            total += 1
        out_offsets[i + 1] = <uint64_t>total
    result = PyBytes_FromStringAndSize(NULL, total)
    cdef char* out = PyBytes_AS_STRING(result)
    for i in range(count):
        node = nodes[i]
        size = _size(blob, offsets, node, strip, as_paths)
        if prefix_size:
            memcpy(out, prefix_at, prefix_size)
            out += prefix_size
        if size > 0:
            memcpy(out, &blob[offsets[node] + strip], size)
            out += size
        elif as_paths and prefix_size == 0:
            out[0] = b"/"
            out += 1
    return result, made


cdef inline Py_ssize_t _size(
    const uint8_t[::1] blob, const uint64_t[::1] offsets, Py_ssize_t node, Py_ssize_t strip, bint as_path
) noexcept nogil:
    # Of a piece, its first bytes taken off; "/" as a whole counts as nothing where it is a path.
    cdef Py_ssize_t size = <Py_ssize_t>(offsets[node + 1] - offsets[node]) - strip
    if size < 0:
        return 0
    if as_path and size == 1 and blob[offsets[node] + strip] == 47:
        return 0
    return size


# -- creates as parts of a multi --------------------------------------------------------------------------------------

def create_sizes(
    const uint64_t[::1] path_offsets,
    const uint64_t[::1] data_offsets,
    const uint32_t[::1] acl_ids,
    const uint64_t[::1] acl_offsets,
    const uint8_t[::1] kinds,
):
    cdef Py_ssize_t count = kinds.shape[0], node
    cdef uint64_t size
    if acl_ids.shape[0] != count or path_offsets.shape[0] <= count or data_offsets.shape[0] <= count:
        raise ValueError("columns are not of one length")
    made = array("I", bytes(4 * count))
    cdef uint32_t[::1] sizes = made
    for node in range(count):
        check_create(node, acl_ids[node], acl_offsets.shape[0] - 1, kinds[node])
        size = path_offsets[node + 1] - path_offsets[node] + data_offsets[node + 1] - data_offsets[node]
        size += acl_offsets[acl_ids[node] + 1] - acl_offsets[acl_ids[node]]
        sizes[node] = <uint32_t>(FIXED_BYTES + size + (8 if kinds[node] == KIND_TTL else 0))
    return made


def encode_creates(
    const uint8_t[::1] paths_blob,
    const uint64_t[::1] path_offsets,
    const uint8_t[::1] data_blob,
    const uint64_t[::1] data_offsets,
    const uint8_t[::1] nulls,
    const uint32_t[::1] acl_ids,
    const uint8_t[::1] acl_blob,
    const uint64_t[::1] acl_offsets,
    const uint8_t[::1] kinds,
    ttls,
    Py_ssize_t start,
    Py_ssize_t stop,
):
    cdef Py_ssize_t count = kinds.shape[0], node, total = 0
    cdef uint32_t acl_id
    cdef uint64_t size
    cdef int64_t ttl
    if not 0 <= start <= stop <= count:
        raise ValueError(f"creates {start} to {stop} of {count}")
    if (
        path_offsets.shape[0] <= count
        or data_offsets.shape[0] <= count
        or nulls.shape[0] < count
        or acl_ids.shape[0] < count
    ):
        raise ValueError("columns are not of one length")
    for node in range(start, stop):
        acl_id = acl_ids[node]
        check_create(node, acl_id, acl_offsets.shape[0] - 1, kinds[node])
        check_slice(path_offsets, node, paths_blob.shape[0])
        check_slice(data_offsets, node, data_blob.shape[0])
        check_slice(acl_offsets, acl_id, acl_blob.shape[0])
        size = path_offsets[node + 1] - path_offsets[node] + data_offsets[node + 1] - data_offsets[node]
        size += acl_offsets[acl_id + 1] - acl_offsets[acl_id]
        total += FIXED_BYTES + <Py_ssize_t>size + (8 if kinds[node] == KIND_TTL else 0)
    result = PyBytes_FromStringAndSize(NULL, total)
    cdef char* out = PyBytes_AS_STRING(result)
    for node in range(start, stop):
        acl_id = acl_ids[node]
        out = put_int(out, OPCODES[kinds[node]])
        out[0] = 0
        out = put_int(out + 1, 0xFFFFFFFF)
        size = path_offsets[node + 1] - path_offsets[node]
        out = put_int(out, <uint32_t>size)
        if size:
            memcpy(out, &paths_blob[path_offsets[node]], size)
        out += size
        size = data_offsets[node + 1] - data_offsets[node]
        out = put_int(out, 0xFFFFFFFF if nulls[node] else <uint32_t>size)
        if size:
            memcpy(out, &data_blob[data_offsets[node]], size)
        out += size
        size = acl_offsets[acl_id + 1] - acl_offsets[acl_id]
        if size:
            memcpy(out, &acl_blob[acl_offsets[acl_id]], size)
        out += size
        out = put_int(out, FLAGS[kinds[node]])
        if kinds[node] == KIND_TTL:
            ttl = ttls[node]
            out = put_int(out, <uint32_t>(<uint64_t>ttl >> 32))
            out = put_int(out, <uint32_t>(<uint64_t>ttl & 0xFFFFFFFF))
    return result


# -- the reply to a multi ---------------------------------------------------------------------------------------------

def all_applied(const uint8_t[::1] reply, Py_ssize_t position, const uint8_t[::1] opcodes):
    cdef Py_ssize_t end = reply.shape[0], part
    cdef int32_t kind, length
    cdef uint8_t asked
    if position < 0:
        return False
    for part in range(opcodes.shape[0]):
        if end - position < HEADER_BYTES or reply[position + 4]:
            return False
        kind = get_int(&reply[position])
        position += HEADER_BYTES
        asked = opcodes[part]
        if asked == OP_CREATE or asked == OP_CREATE2 or asked == OP_CREATE_CONTAINER or asked == OP_CREATE_TTL:
            if kind != OP_CREATE and kind != OP_CREATE2:
                return False
            if end - position < 4:
                return False
            length = get_int(&reply[position])
            position += 4
            if length < 0 or end - position < length:
                return False
            position += length
            if kind == OP_CREATE2:
                position += STAT_BYTES
        elif asked == OP_SET_DATA:
            if kind != OP_SET_DATA:
                return False
            position += STAT_BYTES
        elif asked == OP_DELETE or asked == OP_CHECK:
            if kind != asked:
                return False
        else:
            return False
        if position > end:
            return False
    return bool(end - position == HEADER_BYTES and reply[position + 4])


# -- the journal ------------------------------------------------------------------------------------------------------

cdef inline Py_ssize_t uint_size(uint32_t value) noexcept nogil:
    return 1 if value < 0x80 else 2 if value < 0x100 else 3 if value < 0x10000 else 5


cdef inline char* put_uint(char* out, uint32_t value) noexcept nogil:
    if value < 0x80:
        out[0] = <char>value
        return out + 1
    if value < 0x100:
        out[0] = <char>0xCC
        out[1] = <char>value
        return out + 2
    if value < 0x10000:
        out[0] = <char>0xCD
        out[1] = <char>(value >> 8)
        out[2] = <char>value
        return out + 3
    out[0] = <char>0xCE
    return put_int(out + 1, value)


cdef inline Py_ssize_t text_size(uint64_t size) noexcept nogil:
    return <Py_ssize_t>size + (1 if size < 32 else 2 if size < 0x100 else 3 if size < 0x10000 else 5)


cdef inline char* put_text(char* out, const uint8_t* text, uint64_t size) noexcept nogil:
    if size < 32:
        out[0] = <char>(0xA0 | size)
        out += 1
    elif size < 0x100:
        out[0] = <char>0xD9
        out[1] = <char>size
        out += 2
    elif size < 0x10000:
        out[0] = <char>0xDA
        out[1] = <char>(size >> 8)
        out[2] = <char>size
        out += 3
    else:
        out[0] = <char>0xDB
        out = put_int(out + 1, <uint32_t>size)
    if size:  # text is NULL where the blob is empty
        memcpy(out, text, size)
    return out + size


def pack_created(
    const uint8_t[::1] paths_blob,
    const uint64_t[::1] path_offsets,
    const int32_t[::1] nodes,
    const int32_t[::1] batches,
    Py_ssize_t payload_bytes_max,
):
    cdef Py_ssize_t count = path_offsets.shape[0] - 1, first = 0, i, node, size, payload = 0
    cdef list sizes = []
    cdef list payloads = []
    cdef list ends = []
    if batches.shape[0] < count:
        raise ValueError("columns are not of one length")
    for i in range(nodes.shape[0]):
        node = nodes[i]
        if not 0 <= node < count:
            raise ValueError(f"node {node} of {count}")
        check_slice(path_offsets, node, paths_blob.shape[0])
        if batches[node] < 0:
            raise ValueError(f"node {node} is in batch {batches[node]}")
        size = _entry_size(path_offsets, batches, node)
        if payload and payload + size > payload_bytes_max:
            ends.append(i)
            sizes.append(payload)
            payload = 0
        payload += size
    if payload:
        ends.append(nodes.shape[0])
        sizes.append(payload)
    for last, payload in zip(ends, sizes):
        payloads.append(_pack_entries(paths_blob, path_offsets, nodes, batches, first, last, payload))
        first = last
    return payloads


cdef inline Py_ssize_t _entry_size(
    const uint64_t[::1] path_offsets, const int32_t[::1] batches, Py_ssize_t node
) noexcept nogil:
    cdef uint64_t size = path_offsets[node + 1] - path_offsets[node]
    return 11 + uint_size(<uint32_t>node) + text_size(size) + uint_size(<uint32_t>batches[node])


cdef bytes _pack_entries(
    const uint8_t[::1] paths_blob,
    const uint64_t[::1] path_offsets,
    const int32_t[::1] nodes,
    const int32_t[::1] batches,
    Py_ssize_t first,
    Py_ssize_t last,
    Py_ssize_t total,
):
    cdef Py_ssize_t i, node
    cdef uint64_t start
    cdef const uint8_t* blob = NULL
    result = PyBytes_FromStringAndSize(NULL, total)
    cdef char* out = PyBytes_AS_STRING(result)
    if paths_blob.shape[0]:
        blob = &paths_blob[0]
    for i in range(first, last):
        node = nodes[i]
        start = path_offsets[node]
        memcpy(out, <const char*>b"\x95\xa1e", 3)
        out = put_uint(out + 3, <uint32_t>node)
        memcpy(out, <const char*>b"\xa7created", 8)
        out = put_text(out + 8, blob + start, path_offsets[node + 1] - start)
        out = put_uint(out, <uint32_t>batches[node])
    return result
