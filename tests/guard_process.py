"""A guard without ZooKeeper: one Command, told what to do and telling what happens over a socket, a JSON object a line.

Started by tests/guarding.py: `python -m tests.guard_process FD '{"argv": [...], "instance": ..., ...}'`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import select
import signal
import socket
import sys
from pathlib import Path

from zkmig.guard import command as command_module
from zkmig.guard.claim import Claim, claim
from zkmig.guard.command import Command

TICK_S = 0.5


def main(descriptor: str, settings_text: str) -> None:
    """Obey until told to close, or until the socket's other end is closed."""
    settings = json.loads(settings_text)
    os.set_inheritable(int(descriptor), False)
    channel = socket.socket(fileno=int(descriptor))
    if settings.get("keeper_prelude"):
        before = "from zkmig.guard.keeper import main;"
        patched = command_module._BOOTSTRAP.replace(before, f"exec({settings['keeper_prelude']!r}); {before}")
        assert patched != command_module._BOOTSTRAP
        command_module._BOOTSTRAP = patched
    command_module.ANSWER_S = settings.get("answer_s", command_module.ANSWER_S)
    for number in settings.get("ignored", []):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, settings.get("blocked", []))
    if "listen_fds" in settings:
        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=settings["listen_fds"])
    held: Claim | None = None
    if "claim" in settings:
        held = claim(settings["claim"], settings["instance"], folder=Path(settings["folder"]))
    hold = (held.fileno(),) if held is not None and settings.get("keeper_holds", True) else ()
    command = Command(settings["argv"], instance=settings["instance"], hold=hold, grace_s=settings.get("grace_s", 10.0))
    _serve(command, channel)


def _serve(command: Command, channel: socket.socket) -> None:
    incoming = b""
    while True:
        ready = select.select([channel.fileno(), command.fileno()], [], [], TICK_S)[0]
        for event in command.receive():
            told = {"event": type(event).__name__, **dataclasses.asdict(event)}
            channel.sendall(json.dumps({**told, "keeper": command.keeper_pid}).encode() + b"\n")
        if channel.fileno() not in ready:
            continue
        data = channel.recv(65536)
        incoming += data
        *lines, incoming = incoming.split(b"\n")
        for line in lines:
            match json.loads(line):
                case {"do": "start", "argv": argv}:
                    command.start(argv)
                case {"do": "stop", "grace_s": grace_s}:
                    command.stop(grace_s)
                case {"do": "signal", "number": number}:
                    command.signal(number)
        if not data:
            command.close()
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
