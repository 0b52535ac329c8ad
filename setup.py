"""Builds the compiled modules of zkmig/_fast, or none of them with ZKMIG_PURE=1. All else is in pyproject.toml."""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig
from glob import glob

from setuptools import Extension, setup

NO_COMPILER = (
    "zkmig: no working C compiler with Python's headers was found (Debian: apt-get install gcc libc6-dev python3-dev); "
    "to install without compiled modules: ZKMIG_PURE=1 pip install ."
)


def extensions() -> list[Extension]:
    """One extension for each .pyx; -O3 but no -march=native, since wheels must run on other machines."""
    sources = sorted(glob("zkmig/_fast/*.pyx"))
    if os.environ.get("ZKMIG_PURE") == "1" or not sources:
        return []
    if not can_compile():
        # Here and not in build_ext, which comes so late that pip shows this line under eighty others.
        raise SystemExit(NO_COMPILER)
    from Cython.Build import cythonize

    return cythonize(
        [
            Extension(source.removesuffix(".pyx").replace("/", "."), [source], extra_compile_args=["-O3"])
            for source in sources
        ],
        compiler_directives={"language_level": 3},
    )


def can_compile() -> bool:
    """Whether the compiler that setuptools is going to use takes a file that includes Python.h."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    options = ["-I", sysconfig.get_path("include"), "-x", "c", "-c", "-o", os.devnull, "-"]
    probe = b"#include <Python.h>\nint probe(void) { return 0; }\n"
    try:
        return subprocess.run([*compiler, *options], input=probe, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


setup(ext_modules=extensions())
