"""Which ZooKeeper and which Java: from the environment, else what Debian's package put in place."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zkmig.errors import BadInput

# The manifest of Debian's zookeeper.jar names every jar that the server needs except a back end for slf4j, without
# which it logs nowhere, and three of Netty's, without which it serves no TLS. Its package depends on all of them.
DEBIAN_JARS = tuple(
    Path(f"/usr/share/java/{name}.jar")
    for name in ("zookeeper", "slf4j-simple", "netty-codec", "netty-resolver", "netty-transport-native-unix-common")
)


@dataclass(frozen=True, slots=True)
class Installation:
    """A server's Java program and class path, and where they were found (for messages)."""

    java: str
    classpath: str
    origin: str


def find_installation(
    environ: Mapping[str, str] = os.environ, debian_jars: tuple[Path, ...] = DEBIAN_JARS
) -> Installation:
    """Find a server: ZOOKEEPER_HOME, else ZOOKEEPER_CLASSPATH, else Debian's jars; BadInput when there is none.

    ZOOKEEPER_HOME is an unpacked binary release. ZOOKEEPER_CLASSPATH is handed to Java as it is. Java is
    JAVA_HOME/bin/java, else `java` on the PATH.
    """
    classpath, origin = _find_classpath(environ, debian_jars)
    return Installation(_find_java(environ), classpath, origin)


def _find_classpath(environ: Mapping[str, str], debian_jars: tuple[Path, ...]) -> tuple[str, str]:
    if home := environ.get("ZOOKEEPER_HOME"):
        return _release_classpath(Path(home)), f"ZOOKEEPER_HOME={home}"
    if classpath := environ.get("ZOOKEEPER_CLASSPATH"):
        _require_any(classpath)
        return classpath, "ZOOKEEPER_CLASSPATH"
    if debian_jars[0].exists():
        return ":".join(str(jar) for jar in debian_jars if jar.exists()), str(debian_jars[0])
    raise BadInput(
        "no ZooKeeper server is installed",
        str(debian_jars[0]),
        "run `apt-get install --no-install-recommends zookeeper`, or set ZOOKEEPER_HOME to an unpacked release "
        "or ZOOKEEPER_CLASSPATH to its jars",
    )


def _release_classpath(home: Path) -> str:
    """Releases since 3.5.5 keep all jars in lib/, earlier ones their own jar beside it."""
    if not any(glob.glob(str(folder / "zookeeper-[0-9]*.jar")) for folder in (home, home / "lib")):
        raise BadInput(
            "no zookeeper-*.jar here or in lib/", str(home), "ZOOKEEPER_HOME must name an unpacked binary release"
        )
    return f"{home}/lib/*:{home}/*"


def _require_any(classpath: str) -> None:
    """A class path of which no part exists is a mistyped one; Java would only say that a class is missing."""
    for entry in classpath.split(":"):
        if entry and Path(entry.removesuffix("*")).exists():
            return
    raise BadInput("no part of it exists", f"ZOOKEEPER_CLASSPATH={classpath}", "set it to a server's jars, or unset it")


def _find_java(environ: Mapping[str, str]) -> str:
    if home := environ.get("JAVA_HOME"):
        java = Path(home, "bin", "java")
        if java.exists():
            return str(java)
        raise BadInput("there is no bin/java in it", f"JAVA_HOME={home}", "set it to a Java runtime, or unset it")
    if java_on_path := shutil.which("java", path=environ.get("PATH")):
        return java_on_path
    raise BadInput("no Java runtime was found", "PATH", "run `apt-get install default-jre-headless`, or set JAVA_HOME")
