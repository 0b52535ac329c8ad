#!/usr/bin/env bash
# Builds a copy of zkmig whose compiled modules watch their own memory and arithmetic, and runs tests on it.
#
# The copy lies in build/sanitize; the modules in zkmig/_fast are left alone. Any report of AddressSanitizer or
# UndefinedBehaviorSanitizer ends the run with an error. Needs .venv (scripts/bootstrap.sh) and gcc, whose package has
# both libraries. Arguments go to pytest, tests among them; without any, the tests of compiled modules and their twins run,
# and then the fuzzer for FUZZ_SECONDS (60).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON=$PWD/.venv/bin/python
COPY=build/sanitize
TESTS=(
    tests/test_bulk_codec.py tests/test_columns_twin.py tests/test_creates.py tests/test_diff_twin.py
    tests/test_treehash.py tests/test_zks.py tests/test_wire_session.py tests/test_wire_bulk.py tests/test_fuzz.py
)

# The interpreter names the compiler; a compiler that is no gcc has its libraries elsewhere.
CC=${CC:-$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_config_var("CC").split()[0])')}
LIBASAN=$("$CC" -print-file-name=libasan.so)
[ -e "$LIBASAN" ] || {
    echo "sanitize: $CC has no libasan; use gcc (Debian: apt-get install gcc)" >&2
    exit 1
}

rm -rf "$COPY"
mkdir -p "$COPY"
cp -r zkmig tests docs "$COPY"
rm -f "$COPY"/zkmig/_fast/*.so "$COPY"/zkmig/_fast/*.c
cd "$COPY"

# -O1 keeps what -O3 would prove away. -fno-wrapv: Python's own flags define signed overflow, and so would hide it.
# Nothing is suppressed.
CC=$CC CFLAGS="-O1 -g -fno-omit-frame-pointer -fno-wrapv -U_FORTIFY_SOURCE
    -fsanitize=address,undefined -fno-sanitize-recover=all" \
    LDFLAGS="-fsanitize=address,undefined" \
    "$PYTHON" -m Cython.Build.Cythonize -q -i -3 -j "$(nproc)" zkmig/_fast/*.pyx
cp ../../pyproject.toml . # now: setuptools would complain that files it names are not here

# PYTHONMALLOC: Python's own arenas would hide where an object ends. No leaks: an interpreter frees little at its end.
export PYTHONPATH=$PWD PYTHONMALLOC=malloc LD_PRELOAD=$LIBASAN ZKMIG_BACKEND=cython
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1
"$PYTHON" -c '
import os, sys
from zkmig import backend
assert backend.name() == "cython"
for name in backend.COMPILED_MODULES:
    path = sys.modules[name].__file__
    assert path.startswith(os.getcwd()), f"{path} is not of the copy"
    content = open(path, "rb").read()
    assert b"__asan_init" in content and b"__ubsan_handle" in content, f"{path} watches nothing"
'
if [ $# -gt 0 ]; then
    "$PYTHON" -m pytest -p no:cacheprovider --timeout=0 "$@"
else
    "$PYTHON" -m pytest -p no:cacheprovider --timeout=0 "${TESTS[@]}"
    "$PYTHON" -m tests.fuzz --seconds "${FUZZ_SECONDS:-60}" --crashes ../fuzz
fi
