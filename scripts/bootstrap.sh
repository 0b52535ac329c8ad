#!/usr/bin/env bash
# Makes .venv with zkmig, its compiled modules and its development tools, and sees to a ZooKeeper server for the tests.
#
# Installs Debian packages only for what is missing. Runs again in no time unless what it was made from has changed.
# PYTHON=... chooses the interpreter; ZOOKEEPER_HOME or ZOOKEEPER_CLASSPATH another server; ZKMIG_PURE=1 does without a
# compiler. ZKMIG_MODEL=1 adds what `make model` needs: Spin and a C compiler; ZKMIG_BROWSER=1 what `make test` needs, a
# Chromium with its driver, unless CHROMIUM and CHROMEDRIVER name others.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON=${PYTHON:-python3}
VENV=.venv
STAMP=$VENV/zkmig-bootstrap.stamp
DEBIAN_JAR=/usr/share/java/zookeeper.jar

say() { printf 'bootstrap: %s\n' "$*"; }
die() {
    printf 'bootstrap: %s\n' "$*" >&2
    exit 1
}

# -- what is needed ---------------------------------------------------------------------------------------------------

has_java() { [ -x "${JAVA_HOME:-/nonexistent}/bin/java" ] || command -v java >/dev/null; }

names_server() { [ -n "${ZOOKEEPER_HOME:-}" ] || [ -n "${ZOOKEEPER_CLASSPATH:-}" ]; }

has_server() { has_java && { names_server || [ -e "$DEBIAN_JAR" ]; }; }

# Spin's verifiers are plain C.
has_spin() {
    [ "${ZKMIG_MODEL:-}" != 1 ] || { command -v "${SPIN:-spin}" >/dev/null && compiles_c; }
}

# The page that `zkmig show --html` writes is tried in one.
has_browser() {
    [ "${ZKMIG_BROWSER:-}" != 1 ] ||
        { command -v "${CHROMIUM:-chromium}" >/dev/null && command -v "${CHROMEDRIVER:-chromedriver}" >/dev/null; }
}

compiles_c() { echo 'int main(void) { return 0; }' | "${CC:-cc}" -x c -o /dev/null - 2>/dev/null; }

# What the virtual environment was made from. Its folder counts, since an editable install holds the path.
fingerprint() {
    local sources
    sources=$(find zkmig/_fast -name '*.pyx' -o -name '*.pxd' | LC_ALL=C sort)
    # shellcheck disable=SC2086  # one word for each file; none has blanks
    {
        printf '%s\n' "$PWD" "pure=${ZKMIG_PURE:-}"
        "$PYTHON" -VV
        cat pyproject.toml setup.py scripts/bootstrap.sh $sources
    } | sha256sum
}

is_python_fit() { "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

can_make_venv() { "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; }

python_include() { "$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("include"))'; }

# The compiler that the interpreter names will build the extensions, so that one is tried, with libc's headers.
can_compile() {
    local compiler
    compiler=${CC:-$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_config_var("CC").split()[0])')}
    printf '#include <Python.h>\nint probe(void) { return 0; }\n' |
        "$compiler" -I "$(python_include)" -x c -c -o /dev/null - 2>/dev/null
}

missing_packages() {
    can_make_venv || echo python3-venv
    if [ "${ZKMIG_PURE:-}" != 1 ] && ! can_compile; then
        echo gcc libc6-dev
        [ -e "$(python_include)/Python.h" ] || echo python3-dev
    fi
    if ! has_server; then
        has_java || echo default-jre-headless
        names_server || echo zookeeper
    fi
    if ! has_spin; then
        echo spin
        compiles_c || echo gcc libc6-dev
    fi
    has_browser || echo chromium chromium-driver
    # Tests of TLS make certificates. Debian's Java brings it; another Java may not.
    command -v openssl >/dev/null || echo openssl
}

# -- how it is got ----------------------------------------------------------------------------------------------------

install_packages() {
    local as_root=()
    command -v apt-get >/dev/null ||
        die "this is no Debian: install the likes of these yourself, then run this again: $*"
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || die "neither root nor sudo: let root run: apt-get install --no-install-recommends $*"
        as_root=(sudo)
    fi
    say "installing Debian packages: $*"
    # `env` since sudo drops the environment. Debian's `zookeeper` is the server's files; it starts no service.
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 "$@" >/dev/null ||
        die "apt-get failed; its messages are above"
}

make_venv() {
    if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        say "making a virtual environment in $VENV"
        "$PYTHON" -m venv --clear "$VENV"
    fi
    say "installing zkmig and its development tools into $VENV"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
}

main() {
    local packages
    is_python_fit || die "$PYTHON is not Python 3.11 or newer; set PYTHON to one that is"
    if has_server && has_spin && has_browser && [ "$(cat "$STAMP" 2>/dev/null)" = "$(fingerprint)" ]; then
        return
    fi
    packages=$(missing_packages)
    # shellcheck disable=SC2086  # a list of package names
    [ -z "$packages" ] || install_packages $packages
    can_make_venv || die "$PYTHON still has no venv and ensurepip; set PYTHON to an interpreter that has them"
    make_venv
    fingerprint >"$STAMP" # now and not before: the packages may have brought a newer build of Python
    say "done"
}

main
