# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Tree order of columns, compiled. The specification is zkmig/model/order_plain.py.

Nothing is taken on trust: offsets are checked before anything is read through them.
"""

from array import array

from cpython cimport array as arrays
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy

include "paths.pxi"

cdef extern from *:
    """
    #if defined(__GNUC__)
    #define ZKMIG_PREFETCH(address) __builtin_prefetch(address)
    #else
    #define ZKMIG_PREFETCH(address) ((void)(address))
    #endif

    static inline size_t zkmig_common(const uint8_t *a, const uint8_t *b, size_t both) {
        size_t i = 0;
        while (i + 8 <= both && zkmig_word(a + i) == zkmig_word(b + i)) i += 8;
        while (i < both && a[i] == b[i]) i++;
        return i;
    }

    /* Two lanes, since one would wait for its own multiplications. */
    static inline uint32_t zkmig_hash(const uint8_t *p, size_t size) {
        const uint64_t odd = UINT64_C(0xD6E8FEB86659FD93);
        uint64_t one = UINT64_C(0x9E3779B97F4A7C15) ^ size, two = odd, last[2] = {0, 0};
        for (; size >= 16; p += 16, size -= 16) {
            one = (one ^ zkmig_word(p)) * odd;
            two = (two ^ zkmig_word(p + 8)) * odd;
            one ^= one >> 32;
            two ^= two >> 32;
        }
        memcpy(last, p, size);
        one = (one ^ last[0]) * odd;
        two = (two ^ last[1]) * odd;
        one ^= two ^ (two >> 32) ^ (one >> 32);
        return (uint32_t)((one * odd) >> 32);
    }

    /* Eight bytes as a number that sorts as they do, less where the text ends. */
    static inline uint64_t zkmig_sort_word(const uint8_t *p, size_t size) {
        uint64_t word = 0;
        if (size >= 8) {
            for (int i = 0; i < 8; i++) word = word << 8 | p[i];  /* a load and a swap, to the compiler */
        } else {
            for (size_t i = 0; i < 8; i++) word = word << 8 | (i < size ? p[i] : 0);
        }
        return word;
    }
    """
    void ZKMIG_PREFETCH(const void *address) noexcept nogil
    size_t zkmig_common(const uint8_t *a, const uint8_t *b, size_t both) noexcept nogil
    uint32_t zkmig_hash(const uint8_t *p, size_t size) noexcept nogil
    uint64_t zkmig_sort_word(const uint8_t *p, size_t size) noexcept nogil


cdef enum:
    TAIL_SHARE = 8  # a tail of up to this part of all nodes is sorted alone, and merged
    BATCH = 32  # nodes looked up together, so that waiting for memory overlaps
    FEW = 12  # nodes that are sorted by insertion
    SPLITS_MAX = 64  # words of a name by which nodes are told apart before whole names are compared


cdef arrays.array _i32 = array("i")


cdef inline int compare_nodes(const Paths *paths, Py_ssize_t one, Py_ssize_t other) noexcept nogil:
    return zkmig_compare(path_at(paths, one), size_at(paths, one), path_at(paths, other), size_at(paths, other))


cdef Py_ssize_t ordered_nodes(const Paths *paths) noexcept nogil:
    """How many nodes from the first on are in order."""
    cdef Py_ssize_t node
    for node in range(1, paths.count):
        if compare_nodes(paths, node - 1, node) > 0:
            return node
    return paths.count


# Groups: the nodes of one parent. A parent's path is looked up once for each run of siblings, and siblings arrive
# together, so that most nodes cost one comparison; then only siblings need sorting, by name.

cdef struct Group:
    uint32_t hash
    uint32_t prefix_bytes  # of the parent's path
    int32_t first  # the first member seen; its path begins with the parent's
    int32_t head  # the parent; -1 until it is found
    int32_t next  # the next member to be put out
    int32_t stop


cdef struct Slot:
    uint32_t hash
    int32_t group  # -1 where there is none


cdef struct Grouping:
    Group *groups
    int32_t count
    int32_t room
    Slot *slots  # open addressing
    uint32_t mask
    int64_t probes_left  # so that names chosen to collide cost no more than the other way to sort


cdef struct Named:
    uint64_t word  # the next eight bytes of the name behind what all of the group share
    int32_t node


cdef inline int32_t find_group(Grouping *all, const Paths *paths, const uint8_t *path, size_t size, uint32_t hash,
                               uint32_t *free_slot) noexcept nogil:
    """The group of a parent's path; -1 if there is none, and where it belongs."""
    cdef uint32_t slot = hash & all.mask
    cdef Group *group
    while all.slots[slot].group >= 0:
        if all.slots[slot].hash == hash:
            group = &all.groups[all.slots[slot].group]
            if group.prefix_bytes == size and memcmp(path_at(paths, group.first), path, size) == 0:
                return all.slots[slot].group
        slot = (slot + 1) & all.mask
        all.probes_left -= 1
        if all.probes_left < 0:
            break
    free_slot[0] = slot
    return -1


cdef bint grow(Grouping *all) noexcept nogil:
    """Room for twice as many groups; False if there is no memory."""
    cdef int32_t index
    cdef uint32_t slot
    cdef uint32_t slots = 4 * <uint32_t>all.room
    cdef Group *groups
    if all.room >= 1 << 28:
        return False
    groups = <Group *>PyMem_RawRealloc(all.groups, 2 * <size_t>all.room * sizeof(Group))
    if groups == NULL:
        return False
    all.groups = groups
    all.room *= 2
    PyMem_RawFree(all.slots)
    all.slots = <Slot *>PyMem_RawMalloc(slots * sizeof(Slot))
    if all.slots == NULL:
        return False
    for slot in range(slots):
        all.slots[slot].group = -1
    all.mask = slots - 1
    for index in range(all.count):
        slot = all.groups[index].hash & all.mask
        while all.slots[slot].group >= 0:
            slot = (slot + 1) & all.mask
        all.slots[slot] = Slot(all.groups[index].hash, index)
    return True


cdef bint put_into_groups(Grouping *all, const Paths *paths, int32_t *group_of) noexcept nogil:
    """group_of: the group that each node is in, -1 for "/". False if these are not the paths of a tree."""
    cdef Py_ssize_t node, slash
    cdef const uint8_t *path
    cdef const uint8_t *before = NULL
    cdef size_t size, prefix, prefix_before = 0
    cdef uint32_t hash, slot = 0
    cdef int32_t found = -1
    for node in range(paths.count):
        path, size = path_at(paths, node), size_at(paths, node)
        if size == 1 and path[0] == c"/":
            group_of[node] = -1
            continue
        slash = last_slash(path, size)
        if slash < 0 or slash == <Py_ssize_t>size - 1 or (slash and path[slash - 1] == c"/"):
            return False
        prefix = slash if slash else 1
        if before == NULL or prefix != prefix_before or memcmp(before, path, prefix) != 0:
            hash = zkmig_hash(path, prefix)
            found = find_group(all, paths, path, prefix, hash, &slot)
            if all.probes_left < 0:
                return False
            if found < 0:
                found = all.count
                all.slots[slot] = Slot(hash, found)
                all.groups[found] = Group(hash, <uint32_t>prefix, <int32_t>node, -1, 0, 0)
                all.count += 1
                if all.count == all.room and not grow(all):
                    return False
            before, prefix_before = path, prefix
        group_of[node] = found
        all.groups[found].stop += 1
    return True


cdef Py_ssize_t find_heads(Grouping *all, const Paths *paths, int32_t *below) noexcept nogil:
    """below: the group of each node's children, -1 if it has none. The root; -1 if this is not one tree."""
    cdef Py_ssize_t first, last, node, root = -1
    cdef int32_t found
    cdef uint32_t hashes[BATCH]
    cdef uint32_t free_slot
    cdef Slot *slot
    first = 0
    while first < paths.count:
        last = min(first + BATCH, paths.count)
        for node in range(first, last):
            hashes[node - first] = zkmig_hash(path_at(paths, node), size_at(paths, node))
            ZKMIG_PREFETCH(&all.slots[hashes[node - first] & all.mask])
        for node in range(first, last):
            slot = &all.slots[hashes[node - first] & all.mask]
            if slot.group >= 0 and slot.hash == hashes[node - first]:
                ZKMIG_PREFETCH(&all.groups[slot.group])
        for node in range(first, last):
            slot = &all.slots[hashes[node - first] & all.mask]
            if slot.group >= 0 and slot.hash == hashes[node - first]:
                ZKMIG_PREFETCH(path_at(paths, all.groups[slot.group].first))
        for node in range(first, last):
            found = find_group(all, paths, path_at(paths, node), size_at(paths, node), hashes[node - first],
                               &free_slot)
            if all.probes_left < 0:
                return -1
            below[node] = found
            if found >= 0:
                if all.groups[found].head >= 0:
                    return -1
                all.groups[found].head = <int32_t>node
            if size_at(paths, node) == 1:
                if root >= 0:
                    return -1
                root = node
        first = last
    for found in range(all.count):
        if all.groups[found].head < 0:
            if root >= 0 or all.groups[found].stop != 1:
                return -1
            root = all.groups[found].first
    return root


cdef inline int compare_names(const Paths *paths, Py_ssize_t one, Py_ssize_t other, size_t skip) noexcept nogil:
    return zkmig_compare(path_at(paths, one) + skip, size_at(paths, one) - skip,
                         path_at(paths, other) + skip, size_at(paths, other) - skip)


cdef inline bint comes_after(const Paths *paths, const Named *one, const Named *other, size_t skip) noexcept nogil:
    if one.word != other.word:
        return one.word > other.word
    return compare_names(paths, one.node, other.node, skip) > 0


cdef void insert_few(const Paths *paths, Named *named, Py_ssize_t count, size_t skip) noexcept nogil:
    cdef Py_ssize_t i, position
    cdef Named one
    for i in range(1, count):
        one = named[i]
        position = i
        while position and comes_after(paths, &named[position - 1], &one, skip):
            named[position] = named[position - 1]
            position -= 1
        named[position] = one


cdef void merge_words(Named *named, Named *room, Py_ssize_t count) noexcept nogil:
    """Sort by word alone, equal ones as they come."""
    cdef Py_ssize_t width = 1, left, middle, right, one, other, i
    cdef Named *source = named
    cdef Named *target = room
    while width < count:
        left = 0
        while left < count:
            middle, right = min(left + width, count), min(left + 2 * width, count)
            one, other = left, middle
            for i in range(left, right):
                if other >= right or (one < middle and source[one].word <= source[other].word):
                    target[i] = source[one]
                    one += 1
                else:
                    target[i] = source[other]
                    other += 1
            left = right
        source, target = target, source
        width *= 2
    if source != named:
        memcpy(named, source, <size_t>count * sizeof(Named))


cdef bint sort_named(const Paths *paths, Named *named, Named *room, Py_ssize_t count, size_t skip,
                     int splits) noexcept nogil:
    """Sort by what follows the first `skip` bytes, which are equal: word by word, so that ties cost little.

    False if the names are alike for too long.
    """
    cdef Py_ssize_t i, start
    cdef size_t shared = size_at(paths, named[0].node) - skip
    cdef const uint8_t *first = path_at(paths, named[0].node) + skip
    if count > FEW:
        for i in range(1, count):
            shared = min(shared, size_at(paths, named[i].node) - skip)
            shared = zkmig_common(first, path_at(paths, named[i].node) + skip, shared)
        skip += shared
    for i in range(count):
        named[i].word = zkmig_sort_word(path_at(paths, named[i].node) + skip, size_at(paths, named[i].node) - skip)
    if count <= FEW:
        insert_few(paths, named, count, skip)
        return True
    if splits == SPLITS_MAX:
        return False
    merge_words(named, room, count)
    start = 0
    for i in range(1, count + 1):
        if i == count or named[i].word != named[start].word:
            # A word that is not full ends in NUL, which names do not have: then these names end there, all equal.
            if i - start > 1 and named[start].word & 0xFF:
                if not sort_named(paths, named + start, room, i - start, skip + 8, splits + 1):
                    return False
            start = i
    return True


cdef bint sort_group(const Paths *paths, const Group *group, int32_t *members, Named *named,
                     Named *room) noexcept nogil:
    """Sort members by name, equal ones as they come; False if that is left to whole paths."""
    cdef Py_ssize_t i, count = group.stop - group.next
    cdef size_t skip = group.prefix_bytes + (path_at(paths, group.first)[group.prefix_bytes] == c"/")
    for i in range(1, count):
        if compare_names(paths, members[i - 1], members[i], skip) > 0:
            break
    else:
        return True
    for i in range(count):
        named[i].node = members[i]
    if not sort_named(paths, named, room, count, skip, 0):
        return False
    for i in range(count):
        members[i] = named[i].node
    return True


cdef bint sort_members(Grouping *all, const Paths *paths, const int32_t *group_of, int32_t *members) noexcept nogil:
    """members: all nodes but the root, those of a group together and in order; each group's next and stop are set."""
    cdef int32_t index, total = 0, size, size_max = 0
    cdef Py_ssize_t node
    cdef Named *named
    cdef bint is_done = True
    for index in range(all.count):
        size = all.groups[index].stop
        size_max = max(size, size_max)
        all.groups[index].next = all.groups[index].stop = total
        total += size
    for node in range(paths.count):
        if group_of[node] >= 0:
            members[all.groups[group_of[node]].stop] = <int32_t>node
            all.groups[group_of[node]].stop += 1
    named = <Named *>PyMem_RawMalloc(2 * <size_t>size_max * sizeof(Named) + 1)
    if named == NULL:
        return False
    for index in range(all.count):
        if is_done and all.groups[index].stop - all.groups[index].next > 1:
            is_done = sort_group(
                paths, &all.groups[index], members + all.groups[index].next, named, named + size_max
            )
    PyMem_RawFree(named)
    return is_done


cdef void walk_down(Grouping *all, Py_ssize_t root, const int32_t *group_of, const int32_t *below,
                    const int32_t *members, int32_t *order) noexcept nogil:
    """order: each node before its children, and those before its next sibling."""
    cdef Py_ssize_t put_out = 1
    cdef int32_t node, index = below[root]
    cdef Group *group
    order[0] = <int32_t>root
    while index >= 0:
        group = &all.groups[index]
        if group.next == group.stop:
            index = group_of[group.head] if group.head != root else -1
            continue
        node = members[group.next]
        group.next += 1
        order[put_out] = node
        put_out += 1
        if below[node] >= 0:
            index = below[node]


cdef bint order_by_groups(const Paths *paths, int32_t *order) noexcept nogil:
    """Tree order by sorting siblings. False if that is not possible: not one tree, or not enough memory."""
    cdef Grouping all
    cdef int32_t *group_of = NULL
    cdef int32_t *below = NULL
    cdef int32_t *members = NULL
    cdef Py_ssize_t root
    cdef bint is_done = False
    if memchr(paths.blob, 0, paths.offsets[paths.count]) != NULL:
        return False  # as "/" in the sort keys, but not here
    all.count, all.room = 0, 256
    all.probes_left = 16 * <int64_t>paths.count + 1024
    all.groups, all.slots = NULL, NULL
    # `grow` doubles the room and lays out the slots.
    group_of = <int32_t *>PyMem_RawMalloc(<size_t>paths.count * sizeof(int32_t))
    below = <int32_t *>PyMem_RawMalloc(<size_t>paths.count * sizeof(int32_t))
    if group_of != NULL and below != NULL and grow(&all) and put_into_groups(&all, paths, group_of):
        root = find_heads(&all, paths, below)
        if root >= 0:
            PyMem_RawFree(all.slots)
            all.slots = NULL
            members = <int32_t *>PyMem_RawMalloc(<size_t>paths.count * sizeof(int32_t))
            if members != NULL and sort_members(&all, paths, group_of, members):
                walk_down(&all, root, group_of, below, members, order)
                is_done = True
    PyMem_RawFree(all.groups)
    PyMem_RawFree(all.slots)
    PyMem_RawFree(members)
    PyMem_RawFree(group_of)
    PyMem_RawFree(below)
    return is_done


cdef void merge_nodes(const Paths *paths, const int32_t *source, int32_t *target, Py_ssize_t left, Py_ssize_t middle,
                      Py_ssize_t right) noexcept nogil:
    cdef Py_ssize_t one = left, other = middle, i
    for i in range(left, right):
        if other >= right or (one < middle and compare_nodes(paths, source[one], source[other]) <= 0):
            target[i] = source[one]
            one += 1
        else:
            target[i] = source[other]
            other += 1


cdef bint order_by_merging(const Paths *paths, int32_t *order) noexcept nogil:
    """Tree order of any paths by comparing whole ones; False if there is no memory."""
    cdef Py_ssize_t count = paths.count, width = 1, left, i
    cdef int32_t *room = <int32_t *>PyMem_RawMalloc(<size_t>count * sizeof(int32_t) + 1)
    cdef int32_t *source = order
    cdef int32_t *target = room
    if room == NULL:
        return False
    for i in range(count):
        order[i] = <int32_t>i
    while width < count:
        left = 0
        while left < count:
            merge_nodes(paths, source, target, left, min(left + width, count), min(left + 2 * width, count))
            left += 2 * width
        source, target = target, source
        width *= 2
    if source != order:
        memcpy(order, source, <size_t>count * sizeof(int32_t))
    PyMem_RawFree(room)
    return True


cdef bint order_with_tail(const Paths *paths, Py_ssize_t ordered, int32_t *order) noexcept nogil:
    """Tree order of nodes of which the first ones are in order and the others few: each of these is searched for."""
    cdef Paths tail
    cdef int32_t *late
    cdef Py_ssize_t i, low, high, middle, node, done = 0, put_out = 0
    cdef bint is_done
    tail.blob, tail.offsets, tail.count = paths.blob, paths.offsets + ordered, paths.count - ordered
    late = <int32_t *>PyMem_RawMalloc(<size_t>tail.count * sizeof(int32_t) + 1)
    is_done = late != NULL and order_by_merging(&tail, late)
    for i in range(tail.count if is_done else 0):
        node = ordered + late[i]
        low, high = done, ordered
        while low < high:
            middle = (low + high) >> 1
            if compare_nodes(paths, middle, node) <= 0:
                low = middle + 1
            else:
                high = middle
        while done < low:
            order[put_out] = <int32_t>done
            put_out += 1
            done += 1
        order[put_out] = <int32_t>node
        put_out += 1
    while done < ordered:
        order[put_out] = <int32_t>done
        put_out += 1
        done += 1
    PyMem_RawFree(late)
    return is_done


def tree_order(const uint8_t[::1] blob not None, const uint64_t[::1] offsets not None):
    """Indices in tree order, equal paths in the order they are in; None if all are in that order already."""
    cdef Paths paths
    cdef arrays.array order
    cdef int32_t *out
    cdef Py_ssize_t ordered
    cdef bint is_done
    demand_division(offsets, blob.shape[0])
    paths.count = offsets.shape[0] - 1
    paths.blob = &blob[0]
    paths.offsets = &offsets[0]
    with nogil:
        ordered = ordered_nodes(&paths)
    if ordered == paths.count:
        return None
    order = arrays.clone(_i32, paths.count, zero=False)
    out = <int32_t *>order.data.as_ints
    with nogil:
        if paths.count - ordered <= paths.count // TAIL_SHARE:
            is_done = order_with_tail(&paths, ordered, out)
        else:
            is_done = order_by_groups(&paths, out) or order_by_merging(&paths, out)
    if not is_done:
        raise MemoryError
    return order


def find(const uint8_t[::1] blob not None, const uint64_t[::1] offsets not None, const uint8_t[::1] path not None):
    """Position of a path among paths in tree order; -1 if it is not there."""
    cdef Py_ssize_t low = 0, high = offsets.shape[0] - 1, count = high, middle
    cdef uint64_t first, last
    # Also bytes that are none have a place: memcmp takes no NULL, of whatever length.
    cdef const uint8_t *nothing = b""
    cdef const uint8_t *wanted = &path[0] if path.shape[0] else nothing
    cdef const uint8_t *names = &blob[0] if blob.shape[0] else nothing
    while low < high:
        middle = (low + high) >> 1
        first, last = offsets[middle], offsets[middle + 1]
        if first > last or last > <uint64_t>blob.shape[0]:
            raise ValueError("offsets do not divide their bytes")
        if zkmig_compare(names + first, last - first, wanted, path.shape[0]) < 0:
            low = middle + 1
        else:
            high = middle
    if low >= count:
        return -1
    first, last = offsets[low], offsets[low + 1]
    if first > last or last > <uint64_t>blob.shape[0]:
        raise ValueError("offsets do not divide their bytes")
    if last - first != <uint64_t>path.shape[0] or memcmp(names + first, wanted, last - first) != 0:
        return -1
    return low
