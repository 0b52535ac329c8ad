# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The walk along two trees, compiled. The specification is zkmig/diff_plain.py.

Both sides are columns that have been checked where they entered; only their lengths are looked at again.
"""

from array import array

from cpython cimport array as arrays
from cpython.bytearray cimport PyByteArray_FromStringAndSize
from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

cdef enum:
    ADD = 0
    DATA = 1
    ACL = 2
    KIND = 3
    COUNTER = 4
    DELETE = 5
    COUNTER_HIGHER = 6
    EPHEMERAL_IN_THE_WAY = 7
    EXCLUDED_IN_THE_WAY = 8

    KIND_EPHEMERAL = 3
    HASH_BYTES = 32
    ENTRIES_FIRST = 64
    FRAMES_FIRST = 16

cdef arrays.array _i32 = array("i")


# -- a side -----------------------------------------------------------------------------------------------------------

cdef struct Tree:
    Py_ssize_t count
    const uint8_t *paths
    const uint64_t *path_offsets
    const int32_t *parents
    const int32_t *ends
    const uint8_t *data
    const uint64_t *data_offsets
    const uint8_t *nulls
    const uint32_t *acl_ids
    const uint32_t *acls
    const uint8_t *kinds
    const int32_t *ttl_nodes
    const int64_t *ttl_values
    Py_ssize_t ttls
    const int32_t *cversions
    const int32_t *nums_children
    const int32_t *left_out
    Py_ssize_t lefts
    const uint8_t *tree_hashes  # NULL where unknown
    const uint8_t *counter_hashes


cdef class Held:
    """The columns of one side, held while pointers into them are used."""

    cdef Tree tree
    cdef list columns

    def __init__(self, side):
        cdef const uint8_t[::1] octets
        cdef const uint64_t[::1] offsets
        cdef const int32_t[::1] ints
        cdef const uint32_t[::1] ids
        cdef const int64_t[::1] longs
        cdef Py_ssize_t count
        # The tuple keeps the objects, and nobody resizes an array of a Snapshot.
        self.columns = list(side)
        octets = side.kinds
        self.tree.count = count = octets.shape[0]
        self.tree.kinds = &octets[0]
        octets, offsets = side.paths_blob, side.path_offsets
        demand(offsets.shape[0] == count + 1 and count > 0 and offsets[count] == <uint64_t>octets.shape[0])
        self.tree.paths, self.tree.path_offsets = &octets[0], &offsets[0]
        octets, offsets = side.data_blob, side.data_offsets
        demand(offsets.shape[0] == count + 1 and offsets[count] == <uint64_t>octets.shape[0])
        self.tree.data, self.tree.data_offsets = &octets[0], &offsets[0]
        octets, ids = side.nulls, side.acl_ids
        demand(octets.shape[0] == ids.shape[0] == count)
        self.tree.nulls, self.tree.acl_ids = &octets[0], &ids[0]
        ids = side.acls
        self.tree.acls = &ids[0]
        ints = side.parents
        demand(ints.shape[0] == count)
        self.tree.parents = &ints[0]
        ints = side.ends
        demand(ints.shape[0] == count)
        self.tree.ends = &ints[0]
        ints = side.cversions
        demand(ints.shape[0] == count)
        self.tree.cversions = &ints[0]
        ints = side.nums_children
        demand(ints.shape[0] == count)
        self.tree.nums_children = &ints[0]
        ints, longs = side.ttl_nodes, side.ttl_values
        demand(ints.shape[0] == longs.shape[0])
        self.tree.ttl_nodes, self.tree.ttl_values, self.tree.ttls = &ints[0], &longs[0], ints.shape[0]
        ints = side.left_out
        self.tree.left_out, self.tree.lefts = &ints[0], ints.shape[0]
        octets = side.tree_hashes
        demand(octets.shape[0] in (0, HASH_BYTES * count))
        self.tree.tree_hashes = &octets[0] if octets.shape[0] else NULL
        octets = side.counter_hashes
        demand(octets.shape[0] == (HASH_BYTES * count if self.tree.tree_hashes != NULL else 0))
        self.tree.counter_hashes = &octets[0] if octets.shape[0] else NULL


cdef int demand(bint is_so) except -1:
    if not is_so:
        raise ValueError("columns are not of one length")
    return 0


cdef inline Py_ssize_t find(const int32_t *ascending, Py_ssize_t count, int32_t node) noexcept nogil:
    """Position of a node; -1 if it is not there."""
    cdef Py_ssize_t low = 0, high = count, middle
    while low < high:
        middle = (low + high) >> 1
        if ascending[middle] < node:
            low = middle + 1
        else:
            high = middle
    return low if low < count and ascending[low] == node else -1


cdef inline bint is_left_out(const Tree *tree, int32_t node) noexcept nogil:
    return tree.lefts and find(tree.left_out, tree.lefts, node) >= 0


cdef inline uint64_t name_start(const Tree *tree, int32_t parent) noexcept nogil:
    """Where the names of a node's children begin in their paths; "/" alone ends with its separator."""
    cdef uint64_t path_bytes = tree.path_offsets[parent + 1] - tree.path_offsets[parent]
    return 1 if path_bytes == 1 else path_bytes + 1


cdef inline int64_t counter_at(const Tree *tree, int32_t node) noexcept nogil:
    return (<int64_t>tree.cversions[node] + <int64_t>tree.nums_children[node]) >> 1


# -- entries ----------------------------------------------------------------------------------------------------------

cdef struct Log:
    uint8_t *codes
    int32_t *sources
    int32_t *targets
    Py_ssize_t count
    Py_ssize_t room
    bint is_full  # there was no memory for more


cdef void append(Log *log, uint8_t code, int32_t source, int32_t target) noexcept nogil:
    cdef Py_ssize_t room
    cdef void *codes
    cdef void *sources
    cdef void *targets
    if log.count == log.room:
        room = 2 * log.room if log.room else ENTRIES_FIRST
        codes = PyMem_RawRealloc(log.codes, room)
        log.codes = <uint8_t *>codes if codes != NULL else log.codes
        sources = PyMem_RawRealloc(log.sources, room * sizeof(int32_t))
        log.sources = <int32_t *>sources if sources != NULL else log.sources
        targets = PyMem_RawRealloc(log.targets, room * sizeof(int32_t))
        log.targets = <int32_t *>targets if targets != NULL else log.targets
        if codes == NULL or sources == NULL or targets == NULL:
            log.is_full = True
            return
        log.room = room
    log.codes[log.count] = code
    log.sources[log.count] = source
    log.targets[log.count] = target
    log.count += 1


cdef columns_of(Log *log):
    cdef arrays.array sources = arrays.clone(_i32, log.count, zero=False)
    cdef arrays.array targets = arrays.clone(_i32, log.count, zero=False)
    if log.is_full:
        raise MemoryError
    if log.count:
        memcpy(sources.data.as_ints, log.sources, log.count * sizeof(int32_t))
        memcpy(targets.data.as_ints, log.targets, log.count * sizeof(int32_t))
    return PyByteArray_FromStringAndSize(<char *>log.codes, log.count), sources, targets


cdef void release(Log *log) noexcept nogil:
    PyMem_RawFree(log.codes)
    PyMem_RawFree(log.sources)
    PyMem_RawFree(log.targets)


# -- the walk ---------------------------------------------------------------------------------------------------------

# Two lists of children that are being merged: the next child of either side, and what belongs to their parents.
cdef struct Frame:
    int32_t source
    int32_t target
    int32_t source_parent
    int32_t source_end
    int32_t target_end
    uint64_t source_name
    uint64_t target_name
    Py_ssize_t streak


cdef struct Walk:
    Tree source
    Tree target
    bint with_data
    bint with_acl
    bint with_kind
    bint with_counter
    bint with_root_counter
    bint has_same_root
    Py_ssize_t streak
    Py_ssize_t run_nodes
    Py_ssize_t run_growth
    Log changes
    Log notes
    Log in_the_way
    Frame *frames
    Py_ssize_t depth
    Py_ssize_t room
    bint is_full


cdef inline bint is_same(const Walk *walk, Py_ssize_t source, Py_ssize_t target, Py_ssize_t count) noexcept nogil:
    """Whether hashes show that `count` nodes from here on are equal with all below them."""
    if walk.source.tree_hashes == NULL or walk.target.tree_hashes == NULL:
        return False
    if memcmp(walk.source.tree_hashes + HASH_BYTES * source, walk.target.tree_hashes + HASH_BYTES * target,
              HASH_BYTES * count) != 0:
        return False
    return not walk.with_counter or memcmp(walk.source.counter_hashes + HASH_BYTES * source,
                                           walk.target.counter_hashes + HASH_BYTES * target, HASH_BYTES * count) == 0


cdef inline bint has_same_paths(const Walk *walk, Py_ssize_t source, Py_ssize_t target,
                                Py_ssize_t count) noexcept nogil:
    cdef uint64_t here = walk.source.path_offsets[source], there = walk.target.path_offsets[target]
    cdef uint64_t size = walk.source.path_offsets[source + count] - here
    if walk.target.path_offsets[target + count] - there != size:
        return False
    return memcmp(walk.source.paths + here, walk.target.paths + there, size) == 0


cdef void add_subtree(Log *changes, const Tree *source, int32_t node) noexcept nogil:
    cdef int32_t end = source.ends[node]
    while node < end:
        if is_left_out(source, node):
            node = source.ends[node]
            continue
        if source.kinds[node] != KIND_EPHEMERAL:
            append(changes, ADD, node, -1)
        node += 1


cdef void delete_subtree(Walk *walk, int32_t node) noexcept nogil:
    cdef const Tree *target = &walk.target
    cdef int32_t end = target.ends[node]
    if target.kinds[node] == KIND_EPHEMERAL:
        return  # it goes with its session, and nothing above it is deleted
    while node < end:
        if is_left_out(target, node):
            append(&walk.in_the_way, EXCLUDED_IN_THE_WAY, -1, node)
            node = target.ends[node]
            continue
        if target.kinds[node] == KIND_EPHEMERAL:
            append(&walk.in_the_way, EPHEMERAL_IN_THE_WAY, -1, node)
        else:
            append(&walk.changes, DELETE, -1, node)
        node += 1


cdef inline bint has_same_data(const Walk *walk, int32_t source, int32_t target) noexcept nogil:
    cdef uint64_t here = walk.source.data_offsets[source], there = walk.target.data_offsets[target]
    cdef uint64_t size = walk.source.data_offsets[source + 1] - here
    if (walk.source.nulls[source] != 0) != (walk.target.nulls[target] != 0):
        return False
    if walk.target.data_offsets[target + 1] - there != size:
        return False
    return memcmp(walk.source.data + here, walk.target.data + there, size) == 0


cdef inline bint has_same_ttl(const Walk *walk, int32_t source, int32_t target) noexcept nogil:
    cdef Py_ssize_t here = find(walk.source.ttl_nodes, walk.source.ttls, source)
    cdef Py_ssize_t there = find(walk.target.ttl_nodes, walk.target.ttls, target)
    if here < 0 or there < 0:
        return here == there
    return walk.source.ttl_values[here] == walk.target.ttl_values[there]


cdef void compare(Walk *walk, int32_t source, int32_t target) noexcept nogil:
    """Two nodes of one path, neither of them an ephemeral."""
    cdef int64_t wanted, current
    if walk.with_data and not has_same_data(walk, source, target):
        append(&walk.changes, DATA, source, target)
    if walk.with_acl and walk.source.acls[walk.source.acl_ids[source]] != \
            walk.target.acls[walk.target.acl_ids[target]]:
        append(&walk.changes, ACL, source, target)
    if walk.with_kind and (walk.source.kinds[source] != walk.target.kinds[target]
                           or not has_same_ttl(walk, source, target)):
        append(&walk.changes, KIND, source, target)
    if walk.with_counter and (source or walk.with_root_counter):
        wanted, current = counter_at(&walk.source, source), counter_at(&walk.target, target)
        if wanted > current:
            append(&walk.changes, COUNTER, source, target)
        elif wanted < current:
            append(&walk.notes, COUNTER_HIGHER, source, target)


cdef void descend(Walk *walk, int32_t source, int32_t target) noexcept nogil:
    """Begin to merge the children of two nodes."""
    cdef Frame *frames
    cdef Frame *frame
    if walk.depth == walk.room:
        walk.room = 2 * walk.room if walk.room else FRAMES_FIRST
        frames = <Frame *>PyMem_RawRealloc(walk.frames, walk.room * sizeof(Frame))
        if frames == NULL:
            walk.is_full = True
            return
        walk.frames = frames
    frame = &walk.frames[walk.depth]
    walk.depth += 1
    frame.source, frame.target, frame.source_parent = source + 1, target + 1, source
    frame.source_end, frame.target_end = walk.source.ends[source], walk.target.ends[target]
    frame.source_name, frame.target_name = name_start(&walk.source, source), name_start(&walk.target, target)
    frame.streak = 0


cdef inline int compare_names(const Walk *walk, const Frame *frame) noexcept nogil:
    cdef uint64_t here = walk.source.path_offsets[frame.source] + frame.source_name
    cdef uint64_t there = walk.target.path_offsets[frame.target] + frame.target_name
    cdef uint64_t here_bytes = walk.source.path_offsets[frame.source + 1] - here
    cdef uint64_t there_bytes = walk.target.path_offsets[frame.target + 1] - there
    cdef int compared = memcmp(walk.source.paths + here, walk.target.paths + there, min(here_bytes, there_bytes))
    if compared:
        return compared
    return -1 if here_bytes < there_bytes else here_bytes > there_bytes


cdef void pass_equal_siblings(const Walk *walk, Frame *frame) noexcept nogil:
    """Go on after runs of equal siblings: a wide parent costs its changes, not its width."""
    cdef Py_ssize_t run = walk.run_nodes, count
    cdef int32_t top
    while run >= walk.run_nodes and walk.has_same_root:
        count = min(run, frame.source_end - frame.source, frame.target_end - frame.target)
        if count and is_same(walk, frame.source, frame.target, count) and \
                has_same_paths(walk, frame.source, frame.target, count):
            # The run may end inside a sibling's subtree, which then is equal to its end.
            top = frame.source + <int32_t>count - 1
            while walk.source.parents[top] != frame.source_parent:
                top = walk.source.parents[top]
            frame.target = walk.target.ends[frame.target + top - frame.source]
            frame.source = walk.source.ends[top]
            run *= walk.run_growth
        else:
            run = min(run, count) // walk.run_growth


cdef bint next_pair(Walk *walk, Frame *frame, int32_t *source, int32_t *target) noexcept nogil:
    """Merge by name up to the next pair to compare; nodes of one side are dealt with. False at the end."""
    cdef const Tree *ours = &walk.source
    cdef const Tree *theirs = &walk.target
    cdef int compared
    while True:
        while frame.source < frame.source_end and ours.kinds[frame.source] == KIND_EPHEMERAL:
            frame.source = ours.ends[frame.source]
        while frame.target < frame.target_end and is_left_out(theirs, frame.target):
            frame.target = theirs.ends[frame.target]
        if frame.source >= frame.source_end or frame.target >= frame.target_end:
            break
        compared = compare_names(walk, frame)
        if compared < 0:
            add_subtree(&walk.changes, ours, frame.source)
            frame.source = ours.ends[frame.source]
            continue
        if compared > 0:
            delete_subtree(walk, frame.target)
            frame.target = theirs.ends[frame.target]
            continue
        source[0], target[0] = frame.source, frame.target
        frame.source, frame.target = ours.ends[frame.source], theirs.ends[frame.target]
        if theirs.kinds[target[0]] == KIND_EPHEMERAL:
            append(&walk.in_the_way, EPHEMERAL_IN_THE_WAY, source[0], target[0])
            add_subtree(&walk.changes, ours, source[0])
        elif is_same(walk, source[0], target[0], 1):
            frame.streak += 1
        else:
            frame.streak = 0
            return True
        if frame.streak >= walk.streak:
            pass_equal_siblings(walk, frame)
            frame.streak = 0
    while frame.source < frame.source_end:
        add_subtree(&walk.changes, ours, frame.source)
        frame.source = ours.ends[frame.source]
    while frame.target < frame.target_end:
        if not is_left_out(theirs, frame.target):
            delete_subtree(walk, frame.target)
        frame.target = theirs.ends[frame.target]
    return False


cdef void walk_down(Walk *walk) noexcept nogil:
    """Append every change, note and obstacle, in tree order."""
    cdef int32_t source = 0, target = 0
    if is_same(walk, 0, 0, 1):
        return
    compare(walk, 0, 0)
    descend(walk, 0, 0)
    while walk.depth and not walk.is_full:
        # A pair's children come before its next sibling: that merge waits on the stack.
        if next_pair(walk, &walk.frames[walk.depth - 1], &source, &target):
            compare(walk, source, target)
            descend(walk, source, target)
        else:
            walk.depth -= 1


def walk(source not None, target not None, aspects not None, runs not None):
    """(changes, notes, what is in the way), in tree order, of two trees neither of whose roots is an ephemeral."""
    cdef Held ours = Held(source)
    cdef Held theirs = Held(target)
    cdef Walk state
    memset(&state, 0, sizeof(Walk))
    state.source, state.target = ours.tree, theirs.tree
    state.with_data, state.with_acl, state.with_kind = aspects.data, aspects.acl, aspects.kind
    state.with_counter, state.with_root_counter = aspects.counter, aspects.root_counter
    state.streak, state.run_nodes, state.run_growth = runs.streak, runs.nodes, runs.growth
    state.has_same_root = ours.tree.path_offsets[1] == theirs.tree.path_offsets[1] and \
        memcmp(ours.tree.paths, theirs.tree.paths, ours.tree.path_offsets[1]) == 0
    with nogil:
        walk_down(&state)
    try:
        if state.is_full:
            raise MemoryError
        return columns_of(&state.changes), columns_of(&state.notes), columns_of(&state.in_the_way)
    finally:
        release(&state.changes)
        release(&state.notes)
        release(&state.in_the_way)
        PyMem_RawFree(state.frames)


def add_all(source not None):
    """Every node of the source as one to add."""
    cdef Held ours = Held(source)
    cdef Log changes
    memset(&changes, 0, sizeof(Log))
    with nogil:
        add_subtree(&changes, &ours.tree, 0)
    try:
        return columns_of(&changes)
    finally:
        release(&changes)
