# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Tree hash over columns, compiled. The specification is zkmig/treehash_plain.py; both give the same results and errors.

BLAKE2b-256 is written here from RFC 7693, because hashlib cannot be called without an object and the GIL for every
node. The loop over the nodes holds neither.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

# The compression function, in C so that all 96 steps are unrolled with constant message indices: a loop over the
# SIGMA table costs about a third more. Names are the RFC's (section 3).
cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    static const uint64_t zkmig_iv[8] = {
        UINT64_C(0x6A09E667F3BCC908), UINT64_C(0xBB67AE8584CAA73B), UINT64_C(0x3C6EF372FE94F82B),
        UINT64_C(0xA54FF53A5F1D36F1), UINT64_C(0x510E527FADE682D1), UINT64_C(0x9B05688C2B3E6C1F),
        UINT64_C(0x1F83D9ABFB41BD6B), UINT64_C(0x5BE0CD19137E2179)
    };

    static inline uint64_t zkmig_load64(const uint8_t *p) {
        return (uint64_t)p[0] | (uint64_t)p[1] << 8 | (uint64_t)p[2] << 16 | (uint64_t)p[3] << 24 |
               (uint64_t)p[4] << 32 | (uint64_t)p[5] << 40 | (uint64_t)p[6] << 48 | (uint64_t)p[7] << 56;
    }

    /* Most pieces are short: a name, an ACL, some data. A few moves are cheaper than a call. */
    static inline void zkmig_copy(uint8_t *to, const uint8_t *from, size_t size) {
        if (size > 64) {
            memcpy(to, from, size);
        } else if (size >= 8) {
            for (size_t i = 0; i + 8 <= size; i += 8) memcpy(to + i, from + i, 8);
            memcpy(to + size - 8, from + size - 8, 8);
        } else {
            for (size_t i = 0; i < size; i++) to[i] = from[i];
        }
    }

    #define ZKMIG_ROTR(x, n) ((x) >> (n) | (x) << (64 - (n)))
    #define ZKMIG_G(a, b, c, d, x, y)                   \\
        a += b + (x); d = ZKMIG_ROTR(d ^ a, 32);        \\
        c += d;       b = ZKMIG_ROTR(b ^ c, 24);        \\
        a += b + (y); d = ZKMIG_ROTR(d ^ a, 16);        \\
        c += d;       b = ZKMIG_ROTR(b ^ c, 63);
    #define ZKMIG_ROUND(s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15) \\
        ZKMIG_G(v0, v4, v8, v12, m[s0], m[s1])    ZKMIG_G(v1, v5, v9, v13, m[s2], m[s3])       \\
        ZKMIG_G(v2, v6, v10, v14, m[s4], m[s5])   ZKMIG_G(v3, v7, v11, v15, m[s6], m[s7])      \\
        ZKMIG_G(v0, v5, v10, v15, m[s8], m[s9])   ZKMIG_G(v1, v6, v11, v12, m[s10], m[s11])    \\
        ZKMIG_G(v2, v7, v8, v13, m[s12], m[s13])  ZKMIG_G(v3, v4, v9, v14, m[s14], m[s15])

    static void zkmig_compress(uint64_t h[8], const uint8_t block[128], uint64_t t, uint64_t f) {
        uint64_t m[16];
        for (int i = 0; i < 16; i++) m[i] = zkmig_load64(block + 8 * i);
        uint64_t v0 = h[0], v1 = h[1], v2 = h[2], v3 = h[3], v4 = h[4], v5 = h[5], v6 = h[6], v7 = h[7];
        uint64_t v8 = zkmig_iv[0], v9 = zkmig_iv[1], v10 = zkmig_iv[2], v11 = zkmig_iv[3];
        uint64_t v12 = zkmig_iv[4] ^ t, v13 = zkmig_iv[5], v14 = zkmig_iv[6] ^ f, v15 = zkmig_iv[7];
        ZKMIG_ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
        ZKMIG_ROUND(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3)
        ZKMIG_ROUND(11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4)
        ZKMIG_ROUND(7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8)
        ZKMIG_ROUND(9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13)
        ZKMIG_ROUND(2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9)
        ZKMIG_ROUND(12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11)
        ZKMIG_ROUND(13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10)
        ZKMIG_ROUND(6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5)
        ZKMIG_ROUND(10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0)
        ZKMIG_ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
        ZKMIG_ROUND(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3)
        h[0] ^= v0 ^ v8;  h[1] ^= v1 ^ v9;  h[2] ^= v2 ^ v10; h[3] ^= v3 ^ v11;
        h[4] ^= v4 ^ v12; h[5] ^= v5 ^ v13; h[6] ^= v6 ^ v14; h[7] ^= v7 ^ v15;
    }
    """
    const uint64_t zkmig_iv[8]
    uint64_t zkmig_load64(const uint8_t *p) noexcept nogil
    void zkmig_copy(uint8_t *to, const uint8_t *from_, size_t size) noexcept nogil
    void zkmig_compress(uint64_t *h, const uint8_t *block, uint64_t t, uint64_t f) noexcept nogil


cdef enum:
    BLOCK_BYTES = 128
    HASH_BYTES = 32
    KIND_TTL = 2
    KIND_EPHEMERAL = 3
    KINDS = 4
    LENGTH_MAX = 0x7FFFFFFF


# -- BLAKE2b-256 ------------------------------------------------------------------------------------------------------

cdef struct Blake2b:
    uint64_t h[8]
    uint64_t total  # bytes compressed so far; inputs beyond 2**64 bytes do not occur
    size_t fill
    uint8_t block[BLOCK_BYTES]


cdef void prepare(uint64_t *h, const uint8_t *person) noexcept nogil:
    """State before the first block: 32-byte digest, no key, sequential, 16 bytes of personalisation (section 2.5)."""
    memcpy(h, zkmig_iv, 64)
    h[0] ^= 0x01010000 ^ HASH_BYTES
    h[6] ^= zkmig_load64(person)
    h[7] ^= zkmig_load64(person + 8)


cdef inline void begin(Blake2b *state, const uint64_t *h) noexcept nogil:
    memcpy(state.h, h, 64)
    state.total = 0
    state.fill = 0


cdef inline void feed(Blake2b *state, const uint8_t *piece, size_t size) noexcept nogil:
    # A full block waits until more follows, because the last block is compressed differently.
    cdef size_t room = BLOCK_BYTES - state.fill
    if size > room:
        memcpy(state.block + state.fill, piece, room)
        state.total += BLOCK_BYTES
        zkmig_compress(state.h, state.block, state.total, 0)
        state.fill = 0
        piece += room
        size -= room
        while size > BLOCK_BYTES:
            state.total += BLOCK_BYTES
            zkmig_compress(state.h, piece, state.total, 0)
            piece += BLOCK_BYTES
            size -= BLOCK_BYTES
    zkmig_copy(state.block + state.fill, piece, size)
    state.fill += size


cdef inline void finish(Blake2b *state, uint8_t *out) noexcept nogil:
    cdef int i, j
    memset(state.block + state.fill, 0, BLOCK_BYTES - state.fill)
    zkmig_compress(state.h, state.block, state.total + state.fill, <uint64_t>-1)
    for i in range(4):
        for j in range(8):
            out[8 * i + j] = <uint8_t>(state.h[i] >> (8 * j))


# Most pieces are of these sizes. Where they fit, copying a known number of bytes is one move instead of a call.

cdef inline void feed4(Blake2b *state, const uint8_t *piece) noexcept nogil:
    if state.fill <= BLOCK_BYTES - 4:
        memcpy(state.block + state.fill, piece, 4)
        state.fill += 4
    else:
        feed(state, piece, 4)


cdef inline void feed_hash(Blake2b *state, const uint8_t *piece) noexcept nogil:
    if state.fill <= BLOCK_BYTES - HASH_BYTES:
        memcpy(state.block + state.fill, piece, HASH_BYTES)
        state.fill += HASH_BYTES
    else:
        feed(state, piece, HASH_BYTES)


cdef inline void feed32(Blake2b *state, uint32_t value) noexcept nogil:
    cdef uint8_t raw[4]
    raw[0] = <uint8_t>(value >> 24)
    raw[1] = <uint8_t>(value >> 16)
    raw[2] = <uint8_t>(value >> 8)
    raw[3] = <uint8_t>value
    feed4(state, raw)


cdef inline void feed64(Blake2b *state, uint64_t value) noexcept nogil:
    feed32(state, <uint32_t>(value >> 32))
    feed32(state, <uint32_t>value)


def blake2b(const uint8_t[::1] data not None, bytes person not None, Py_ssize_t piece_bytes):
    """BLAKE2b-256 of `data`, fed in pieces of `piece_bytes`: what the tests hold against hashlib."""
    cdef uint8_t padded[16]
    cdef uint64_t h[8]
    cdef Blake2b state
    cdef Py_ssize_t position = 0, size
    if len(person) > 16 or piece_bytes < 1:
        raise ValueError("person is at most 16 bytes, piece_bytes at least 1")
    memset(padded, 0, 16)
    memcpy(padded, PyBytes_AS_STRING(person), len(person))
    prepare(h, padded)
    begin(&state, h)
    while position < data.shape[0]:
        size = min(piece_bytes, data.shape[0] - position)
        feed(&state, &data[position], size)
        position += size
    out = PyBytes_FromStringAndSize(NULL, HASH_BYTES)
    finish(&state, <uint8_t *>PyBytes_AS_STRING(out))
    return out


# -- the tree ---------------------------------------------------------------------------------------------------------

cdef enum Fault:
    SOUND = 0
    BAD_END = 1
    BAD_KIND = 2
    BAD_ACL = 3
    BAD_NAME = 4
    BAD_TTL = 5


cdef struct Tree:
    Py_ssize_t count
    const uint8_t *paths
    const uint64_t *path_offsets
    const int32_t *ends
    const uint8_t *data
    const uint64_t *data_offsets
    const uint8_t *nulls
    const uint8_t *kinds
    const int32_t *ttl_nodes
    const int64_t *ttl_values
    Py_ssize_t ttl_left
    const uint32_t *acl_ids
    const uint8_t *acls
    const uint64_t *acl_offsets
    Py_ssize_t acl_count
    const int32_t *cversions
    const int32_t *nums_children
    int64_t still_first
    int64_t still_end
    uint8_t *tree_hashes
    uint8_t *counter_hashes
    Py_ssize_t faulty_node


cdef struct Children:
    uint32_t members  # in the tree hash
    uint32_t risen  # in the counter hash
    uint64_t name_start


cdef inline bint has_risen(const Tree *tree, Py_ssize_t node) noexcept nogil:
    cdef uint64_t words[4]
    memcpy(words, tree.counter_hashes + HASH_BYTES * node, HASH_BYTES)
    return (words[0] | words[1] | words[2] | words[3]) != 0


cdef inline Fault count_children(Tree *tree, Py_ssize_t node, Children *children) noexcept nogil:
    """Count the children that the hashes cover; every child's end and name are checked here, before they are used."""
    cdef Py_ssize_t child = node + 1, end = tree.ends[node]
    cdef uint64_t path_bytes = tree.path_offsets[node + 1] - tree.path_offsets[node]
    children.members = 0
    children.risen = 0
    children.name_start = 1 if path_bytes == 1 else path_bytes + 1  # the path "/" alone ends with its separator
    while child < end:
        tree.faulty_node = child
        if tree.ends[child] > end:
            return BAD_END
        if tree.kinds[child] != KIND_EPHEMERAL:
            if tree.path_offsets[child + 1] - tree.path_offsets[child] <= children.name_start:
                return BAD_NAME
            children.members += 1
            children.risen += has_risen(tree, child)
        child = tree.ends[child]
    tree.faulty_node = node
    return SOUND


cdef inline void feed_child(Blake2b *state, const Tree *tree, Py_ssize_t child, uint64_t name_start,
                            const uint8_t *hashes) noexcept nogil:
    cdef uint64_t start = tree.path_offsets[child] + name_start
    cdef uint64_t size = tree.path_offsets[child + 1] - start
    feed32(state, <uint32_t>size)
    feed(state, tree.paths + start, size)
    feed_hash(state, hashes + HASH_BYTES * child)


cdef inline Fault hash_tree(Tree *tree, Py_ssize_t node, const Children *children, Blake2b *state) noexcept nogil:
    cdef uint8_t kind = tree.kinds[node]
    cdef uint64_t start, size
    cdef uint32_t acl = tree.acl_ids[node]
    cdef Py_ssize_t child, end = tree.ends[node]
    feed(state, &kind, 1)
    if kind == KIND_TTL:
        tree.ttl_left -= 1
        if tree.ttl_left < 0 or tree.ttl_nodes[tree.ttl_left] != node:
            return BAD_TTL
        feed64(state, <uint64_t>tree.ttl_values[tree.ttl_left])
    if tree.nulls[node]:
        feed32(state, <uint32_t>-1)
    else:
        start = tree.data_offsets[node]
        size = tree.data_offsets[node + 1] - start
        feed32(state, <uint32_t>size)
        feed(state, tree.data + start, size)
    start = tree.acl_offsets[acl]
    feed(state, tree.acls + start, tree.acl_offsets[acl + 1] - start)
    feed32(state, children.members)
    child = node + 1
    while child < end:
        if tree.kinds[child] != KIND_EPHEMERAL:
            feed_child(state, tree, child, children.name_start, tree.tree_hashes)
        child = tree.ends[child]
    finish(state, tree.tree_hashes + HASH_BYTES * node)
    return SOUND


cdef inline int64_t counter_of(const Tree *tree, Py_ssize_t node) noexcept nogil:
    if tree.path_offsets[node + 1] - tree.path_offsets[node] == 1:
        return 0
    if tree.still_first <= node < tree.still_end:
        return 0
    return (<int64_t>tree.cversions[node] + <int64_t>tree.nums_children[node]) >> 1


cdef inline void hash_counters(Tree *tree, Py_ssize_t node, int64_t counter, const Children *children,
                               Blake2b *state) noexcept nogil:
    cdef Py_ssize_t child = node + 1, end = tree.ends[node]
    feed64(state, <uint64_t>counter)
    feed32(state, children.risen)
    while children.risen and child < end:
        if tree.kinds[child] != KIND_EPHEMERAL and has_risen(tree, child):
            feed_child(state, tree, child, children.name_start, tree.counter_hashes)
        child = tree.ends[child]
    finish(state, tree.counter_hashes + HASH_BYTES * node)


cdef Fault hash_nodes(Tree *tree) noexcept nogil:
    """All nodes, last to first; a fault is of tree.faulty_node."""
    cdef uint64_t tree_start[8]
    cdef uint64_t counter_start[8]
    cdef Blake2b state
    cdef Children children
    cdef Py_ssize_t node
    cdef int64_t counter
    cdef Fault fault
    prepare(tree_start, <const uint8_t *>b"zkmig.tree.v1\0\0\0")
    prepare(counter_start, <const uint8_t *>b"zkmig.count.v1\0\0")
    for node in range(tree.count - 1, -1, -1):
        tree.faulty_node = node
        if tree.ends[node] <= node or tree.ends[node] > tree.count:
            return BAD_END
        if tree.kinds[node] >= KINDS:
            return BAD_KIND
        if tree.acl_ids[node] >= <uint64_t>tree.acl_count:
            return BAD_ACL
        if tree.kinds[node] == KIND_EPHEMERAL:
            continue
        fault = count_children(tree, node, &children)
        if fault != SOUND:
            return fault
        begin(&state, tree_start)
        fault = hash_tree(tree, node, &children, &state)
        if fault != SOUND:
            return fault
        counter = counter_of(tree, node)
        if counter or children.risen:
            begin(&state, counter_start)
            hash_counters(tree, node, counter, &children, &state)
    return SOUND


cdef check_offsets(str what, const uint64_t[::1] offsets, Py_ssize_t count, Py_ssize_t blob_bytes):
    cdef Py_ssize_t position
    if offsets.shape[0] != count + 1 or offsets[0] != 0 or offsets[count] != <uint64_t>blob_bytes:
        raise ValueError(f"{what} offsets do not divide their bytes")
    for position in range(count):
        # A difference below zero wraps to a large one.
        if offsets[position + 1] - offsets[position] > LENGTH_MAX:
            raise ValueError(f"{what} {position} has a length out of range")


cdef refuse(Fault fault, Py_ssize_t node):
    if fault == BAD_END:
        raise ValueError(f"end of node {node} is out of range")
    if fault == BAD_KIND:
        raise ValueError(f"kind of node {node} is unknown")
    if fault == BAD_ACL:
        raise ValueError(f"ACL of node {node} is out of range")
    if fault == BAD_NAME:
        raise ValueError(f"path of node {node} is not below its parent's")
    raise ValueError(f"time to live of node {node} is missing")


def hash_columns(
    const uint8_t[::1] paths_blob not None,
    const uint64_t[::1] path_offsets not None,
    const int32_t[::1] ends not None,
    const uint8_t[::1] data_blob not None,
    const uint64_t[::1] data_offsets not None,
    const uint8_t[::1] nulls not None,
    const uint8_t[::1] kinds not None,
    const int32_t[::1] ttl_nodes not None,
    const int64_t[::1] ttl_values not None,
    const uint32_t[::1] acl_ids not None,
    const uint8_t[::1] acl_blob not None,
    const uint64_t[::1] acl_offsets not None,
    const int32_t[::1] cversions not None,
    const int32_t[::1] nums_children not None,
    int64_t still_first,
    int64_t still_end,
):
    """(tree hashes, counter hashes); see zkmig.treehash_plain.hash_columns."""
    cdef Py_ssize_t count = kinds.shape[0]
    cdef Tree tree
    cdef Fault fault
    if (
        ends.shape[0] != count or nulls.shape[0] != count or acl_ids.shape[0] != count
        or cversions.shape[0] != count or nums_children.shape[0] != count
        or ttl_nodes.shape[0] != ttl_values.shape[0]
    ):
        raise ValueError("columns are not of one length")
    check_offsets("path", path_offsets, count, paths_blob.shape[0])
    check_offsets("data", data_offsets, count, data_blob.shape[0])
    check_offsets("ACL", acl_offsets, max(acl_offsets.shape[0] - 1, 0), acl_blob.shape[0])

    # Addresses of the first elements; of an empty column the address is never followed.
    tree.count = count
    tree.paths = &paths_blob[0]
    tree.path_offsets = &path_offsets[0]
    tree.ends = &ends[0]
    tree.data = &data_blob[0]
    tree.data_offsets = &data_offsets[0]
    tree.nulls = &nulls[0]
    tree.kinds = &kinds[0]
    tree.ttl_nodes = &ttl_nodes[0]
    tree.ttl_values = &ttl_values[0]
    tree.ttl_left = ttl_nodes.shape[0]
    tree.acl_ids = &acl_ids[0]
    tree.acls = &acl_blob[0]
    tree.acl_offsets = &acl_offsets[0]
    tree.acl_count = acl_offsets.shape[0] - 1
    tree.cversions = &cversions[0]
    tree.nums_children = &nums_children[0]
    tree.still_first = still_first
    tree.still_end = still_end
    tree_hashes = PyBytes_FromStringAndSize(NULL, HASH_BYTES * count)
    counter_hashes = PyBytes_FromStringAndSize(NULL, HASH_BYTES * count)
    tree.tree_hashes = <uint8_t *>PyBytes_AS_STRING(tree_hashes)
    tree.counter_hashes = <uint8_t *>PyBytes_AS_STRING(counter_hashes)
    memset(tree.tree_hashes, 0, HASH_BYTES * count)
    memset(tree.counter_hashes, 0, HASH_BYTES * count)
    with nogil:
        fault = hash_nodes(&tree)
    if fault != SOUND:
        refuse(fault, tree.faulty_node)
    return tree_hashes, counter_hashes
