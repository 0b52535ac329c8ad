"""Builds the compiled modules of zkmig/_fast, or none of them with ZKMIG_PURE=1. All else is in pyproject.toml."""

from __future__ import annotations

import os
import tempfile
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, ExecError, PlatformError

NO_COMPILER = (
    "zkmig: no working C compiler with Python headers was found (Debian: apt-get install gcc libc6-dev python3-dev); "
    "to install without compiled modules: ZKMIG_PURE=1 pip install ."
)


class BuildFast(build_ext):
    """build_ext that says what to do when nothing can be compiled, before Cython's and the compiler's many lines."""

    def build_extensions(self) -> None:
        """Try the compiler once before handing it the real work."""
        if not self._can_compile():
            raise SystemExit(NO_COMPILER)
        super().build_extensions()

    def _can_compile(self) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            probe = Path(folder, "probe.c")
            probe.write_text("#include <Python.h>\n#include <string.h>\nint probe(void) { return 0; }\n")
            try:
                self.compiler.compile([str(probe)], output_dir=folder, include_dirs=self.include_dirs)
            except (CCompilerError, ExecError, PlatformError):
                return False
        return True


def extensions() -> list[Extension]:
    """One extension for each .pyx; -O3 but no -march=native, since wheels must run on other machines."""
    sources = sorted(glob("zkmig/_fast/*.pyx"))
    if os.environ.get("ZKMIG_PURE") == "1" or not sources:
        return []
    from Cython.Build import cythonize

    return cythonize(
        [
            Extension(source.removesuffix(".pyx").replace("/", "."), [source], extra_compile_args=["-O3"])
            for source in sources
        ],
        compiler_directives={"language_level": 3},
    )


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildFast})
