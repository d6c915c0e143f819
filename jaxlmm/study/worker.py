"""A process that does chunks: tasks come in on standard input, parts go out where standard output was.

It works with one thread (see `jaxlmm.study.chunk.one_thread`) and ends at once when whoever started it does.
"""

from __future__ import annotations

import os
import pickle
import queue
import struct
import sys
import threading
from typing import IO, Any

LENGTH = struct.Struct("<Q")


def send(stream: IO[bytes], message: Any) -> None:
    """Write one message."""
    content = pickle.dumps(message)
    stream.write(LENGTH.pack(len(content)) + content)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """Read one message; EOFError where the other side has gone."""
    size = _exactly(stream, LENGTH.size)
    return pickle.loads(_exactly(stream, LENGTH.unpack(size)[0]))


def _exactly(stream: IO[bytes], count: int) -> bytes:
    content = stream.read(count)
    if len(content) < count:
        raise EOFError
    return content


def main() -> None:
    """Work until standard input ends."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a user's function prints is not for the other side
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def listen() -> None:
        try:
            while True:
                inbox.put(receive(sys.stdin.buffer))
        except EOFError:
            os._exit(0)  # in the middle of a chunk too: nobody waits for it

    threading.Thread(target=listen, daemon=True).start()
    paths, payload = inbox.get()
    sys.path[:] = [*sys.path, *(p for p in paths if p not in sys.path)]
    try:
        from .chunk import Bench, environment, message_of

        study = pickle.loads(payload)
        bench = Bench(study)
        send(out, ("ready", environment()))
    except Exception as error:
        send(out, ("failed", f"a worker cannot start: {type(error).__name__}: {error}"))
        return
    while True:
        task = inbox.get()
        try:
            answer: tuple[str, Any] = ("done", bench.run(task))
        except Exception as error:
            answer = ("failed", message_of(error, task, study.cells))
        send(out, answer)
