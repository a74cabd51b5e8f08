"""Processes of runs, forked from one that has imported what they need: a run so starts in a sixth of the CPU.

That process has one thread, no event loop and no connection, so a run finds what a start of its own would leave.
It only forks, and tells how its children ended; when whoever wants them is gone it ends, and by that they do.
"""

import asyncio
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from types import TracebackType
from typing import Any, NoReturn, Self

from ingest_service.runtime.plugins import registered
from ingest_service.runtime.process import EVENTS_FD, PARENT_PID

_LENGTH_BYTES = 8
_STREAMS = ("stdout", "stderr", "events")  # in this order their descriptors are sent
_LINE_BYTES = 1 << 20
_NEEDED = (  # of ours, and what is imported where it is used
    *("numpy.ma", "uvloop", "email.parser"),
    *(f"ingest_service.{name}" for name in ("cli.app", "config", "pipeline.run", "pipeline.steps")),
    *(f"ingest_service.telemetry.{name}" for name in ("listeners", "logs", "show")),
    *("ingest_service.datasets.microlens", "ingest_service.formats.delimited.reader"),
)


class Forked:
    """A process that was forked. `stdout`, `stderr` and `events` are what it says, each over a socket of its own."""

    def __init__(self, readers: Mapping[str, asyncio.StreamReader], writers: Sequence[asyncio.StreamWriter]) -> None:
        self.stdout, self.stderr, self.events = (readers[name] for name in _STREAMS)
        self._writers = writers
        self.pid = 0
        self.started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def returncode(self) -> int | None:
        """As of asyncio's processes: below 0, by that signal."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def send_signal(self, number: int) -> None:
        if self.returncode is None and self.pid:
            with suppress(ProcessLookupError):  # it has ended, and we are about to be told
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """It is no longer listened to."""
        for writer in self._writers:
            writer.close()

    def told(self, answer: Mapping[str, int]) -> None:
        if "pid" in answer:
            self.pid = answer["pid"]
            self.started.set_result(self.pid)
        elif "errno" in answer:
            self.started.set_exception(OSError(answer["errno"], os.strerror(answer["errno"])))
        elif not self._ended.done():
            self._ended.set_result(answer["code"])


class Forks:
    """Starts the process that forks, again if it died, and hears from it. Inside `async with`."""

    def __init__(self, schemes: Collection[str] = (), command: str = "ingest_service.cli.app") -> None:
        """schemes: of the sinks whose code is imported beforehand.

        command: the module whose `main` is run in each, and its `prepare` once in what they are forked from.
        """
        self._schemes = schemes
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._requests: socket.socket | None = None
        self._hearing: asyncio.Task[None] | None = None
        self._forked: dict[int, Forked] = {}
        self._number = 0
        self._turn = asyncio.Lock()

    async def fork(self, arguments: Sequence[str], environment: Mapping[str, str], nice: int) -> Forked:
        """A process that runs these arguments of the command. OSError if it cannot be had."""
        readers, writers, theirs = {}, [], []
        try:
            for name in _STREAMS:
                ours, other = socket.socketpair()  # of a pipe uvloop would close the number twice
                theirs.append(other)
                readers[name], writer = await asyncio.open_connection(sock=ours, limit=_LINE_BYTES)
                writers.append(writer)
            forked = Forked(readers, writers)
            request = {"arguments": list(arguments), "environment": dict(environment), "nice": nice}
            async with self._turn:
                self._number += 1
                self._forked[self._number] = forked
                requests = await self._connected()
                text = json.dumps({**request, "number": self._number}).encode()
                await asyncio.to_thread(_send, requests, text, [one.fileno() for one in theirs])
            await forked.started
        except BaseException:
            for writer in writers:
                writer.close()
            raise
        finally:
            for other in theirs:
                other.close()
        return forked

    async def _connected(self) -> socket.socket:
        if self._requests is not None and self._process is not None and self._process.returncode is None:
            return self._requests
        await self._disconnect()
        requests, theirs = socket.socketpair()
        answers, their_answers = socket.socketpair()
        with theirs, their_answers:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", __spec__.name, str(theirs.fileno()), str(their_answers.fileno())),
                *(self._command, *self._schemes),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), their_answers.fileno()),
                start_new_session=True,  # a Ctrl-C is for the service, which tells its runs itself
            )
        self._requests = requests
        self._hearing = asyncio.create_task(self._hear(answers))
        return requests

    async def _hear(self, answers: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=answers)
        try:
            while line := await reader.readline():
                answer = json.loads(line)
                self._forked[answer["number"]].told(answer)
                if "pid" not in answer:
                    del self._forked[answer["number"]]
        finally:
            writer.close()
            for forked in self._forked.values():  # whoever forked them died, and so they were ended
                if forked.started.done():
                    forked.told({"code": -signal.SIGTERM})
                else:
                    forked.started.set_exception(OSError("the process that forks has died"))
            self._forked.clear()

    async def _disconnect(self) -> None:
        if self._requests is not None:
            self._requests.close()  # by which it ends
        if self._hearing is not None:
            await asyncio.wait((self._hearing,))
        if self._process is not None:
            await self._process.wait()
        self._requests = self._hearing = self._process = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._disconnect()


def _send(requests: socket.socket, text: bytes, fds: Sequence[int]) -> None:
    socket.send_fds(requests, [len(text).to_bytes(_LENGTH_BYTES, "big")], fds)
    requests.sendall(text)


# --- the process that forks -------------------------------------------------------------------------


def serve(requests: socket.socket, answers: socket.socket) -> None:
    """Fork on request until the other side is gone. Returns in each child, whose `sys.argv` is set then."""
    me = os.getpid()
    numbers: dict[int, int] = {}  # of children, by their pid
    woken, wake = socket.socketpair()
    for one in (woken, wake):
        one.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    while True:
        ready, _, _ = select.select([requests, woken], [], [])
        if woken in ready:
            woken.recv(4096)
            _tell_ended(numbers, answers)
        if requests in ready:
            header, fds, _, _ = socket.recv_fds(requests, _LENGTH_BYTES, len(_STREAMS))
            if not header:
                sys.exit()
            request = json.loads(_exactly(requests, int.from_bytes(header, "big")))
            try:
                pid = os.fork()
            except OSError as error:
                _tell(answers, number=request["number"], errno=error.errno or 0)
            else:
                if pid == 0:
                    for one in (requests, answers, woken, wake):
                        one.close()
                    _become(request, fds, me)
                    return
                numbers[pid] = request["number"]
                _tell(answers, number=request["number"], pid=pid)
            finally:
                for fd in fds:
                    with suppress(OSError):
                        os.close(fd)


def _become(request: Mapping[str, Any], fds: Sequence[int], parent: int) -> None:
    """In the child: what a process of its own would have been given."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    os.nice(request["nice"])
    stdout, stderr, events = fds
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.environ[PARENT_PID] = str(parent)  # which may be dead by now
    os.environ[EVENTS_FD] = str(os.dup(events))
    sys.argv = ["ingest-service", *request["arguments"]]


def _tell_ended(numbers: dict[int, int], answers: socket.socket) -> None:
    while numbers:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        _tell(answers, number=numbers.pop(pid), code=os.waitstatus_to_exitcode(status))


def _tell(answers: socket.socket, **answer: int) -> None:
    try:
        answers.sendall(json.dumps(answer).encode() + b"\n")
    except OSError:
        sys.exit()  # the service is gone


def _exactly(requests: socket.socket, n: int) -> bytes:
    parts = bytearray()
    while len(parts) < n:
        data = requests.recv(n - len(parts))
        if not data:
            sys.exit()
        parts += data
    return bytes(parts)


def main() -> NoReturn:
    """`python -m …forks REQUESTS ANSWERS MODULE SCHEME…`, of which the first two are descriptors."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command sets it
    requests, answers, command, *schemes = sys.argv[1:]
    for name in _NEEDED:
        with suppress(ModuleNotFoundError):  # uvloop is not everywhere
            import_module(name)
    for scheme in schemes:
        if scheme in registered("sinks"):
            registered("sinks")[scheme].load()
    program = import_module(command)
    program.prepare()
    serve(socket.socket(fileno=int(requests)), socket.socket(fileno=int(answers)))
    program.main()
    raise AssertionError("the command ends the process")


if __name__ == "__main__":
    main()
