# Paths as one blob with offsets: what the modules on order and on soundness share.

from libc.stdint cimport uint8_t, uint64_t

# Comparing bytes eight at a time.
cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    static inline uint64_t zkmig_word(const uint8_t *p) {
        uint64_t word;
        memcpy(&word, p, 8);
        return word;
    }

    /* Tree order: "/" below all other bytes. NUL counts as equal to "/", as in the twin's sort keys. */
    static inline int zkmig_compare(const uint8_t *a, size_t a_size, const uint8_t *b, size_t b_size) {
        size_t both = a_size < b_size ? a_size : b_size, i = 0;
        for (;;) {
            while (i + 8 <= both && zkmig_word(a + i) == zkmig_word(b + i)) i += 8;
            while (i < both && a[i] == b[i]) i++;
            if (i == both) return a_size < b_size ? -1 : a_size > b_size;
            uint8_t x = a[i] == '/' ? 0 : a[i], y = b[i] == '/' ? 0 : b[i];
            if (x != y) return x < y ? -1 : 1;
            i++;
        }
    }

    static int zkmig_falls(const uint64_t *p, size_t size) {
        int falls = 0;
        for (size_t i = 1; i < size; i++) falls |= p[i] < p[i - 1];
        return falls;
    }
    """
    int zkmig_compare(const uint8_t *a, size_t a_size, const uint8_t *b, size_t b_size) noexcept nogil
    uint64_t zkmig_word(const uint8_t *p) noexcept nogil
    bint zkmig_falls(const uint64_t *p, size_t size) noexcept nogil


cdef struct Paths:
    Py_ssize_t count
    const uint8_t *blob
    const uint64_t *offsets


cdef inline const uint8_t *path_at(const Paths *paths, Py_ssize_t node) noexcept nogil:
    return paths.blob + paths.offsets[node]


cdef inline size_t size_at(const Paths *paths, Py_ssize_t node) noexcept nogil:
    return paths.offsets[node + 1] - paths.offsets[node]


cdef inline Py_ssize_t last_slash(const uint8_t *path, size_t size) noexcept nogil:
    cdef Py_ssize_t position = <Py_ssize_t>size - 1
    while position >= 0 and path[position] != c"/":
        position -= 1
    return position


cdef inline bint do_divide(const uint64_t[::1] offsets, Py_ssize_t blob_bytes) noexcept nogil:
    cdef Py_ssize_t size = offsets.shape[0]
    if size == 0 or offsets[0] != 0 or offsets[size - 1] != <uint64_t>blob_bytes:
        return False
    return not zkmig_falls(&offsets[0], size)


cdef int demand_division(const uint64_t[::1] offsets, Py_ssize_t blob_bytes) except -1:
    if not do_divide(offsets, blob_bytes):
        raise ValueError("offsets do not divide their bytes")
    if offsets.shape[0] - 1 > 0x7FFFFFFF:
        raise ValueError("more nodes than an index can name")
    return 0
