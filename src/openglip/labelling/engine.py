"""Shards to workers, on this machine or on Ray: whoever is free takes the next one, a dead worker's shard is redone."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from openglip.errors import DataError, MissingExtraError, OpenGLIPError
from openglip.labelling.inputs import Shard

DEATHS = 8  # of workers with one shard in hand, before it counts as the cause
TRIES = 2  # of a shard that raised an error
_BEAT_SECONDS = 0.5

Row = dict[str, Any]
Beat = Callable[[int], None]
Work = Callable[[Shard, Beat], Row]


class Job(Protocol):
    """Picklable; `worker` is called once in each worker, with its number, and gives the function that does a shard."""

    def worker(self, number: int = 0) -> Work: ...


@dataclass(frozen=True)
class Outcome:
    """What became of a shard: its row, or the error of its last try. With `pairs` only: how far a worker has come."""

    shard: Shard
    row: Row | None = None
    error: str | None = None
    pairs: int | None = None


class _Queue:
    """Shards still to do, and how often each was tried."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.waiting = deque(shards)
        self.deaths: dict[str, int] = {}
        self.tries: dict[str, int] = {}

    def died(self, shard: Shard, how: str) -> Outcome | None:
        """Take back the shard of a dead worker; an outcome when it has killed too many."""
        self.deaths[shard.name] = self.deaths.get(shard.name, 0) + 1
        if self.deaths[shard.name] >= DEATHS:
            return Outcome(shard, error=f"its worker died {DEATHS} times, last with {how}")
        self.waiting.appendleft(shard)
        return None

    def answered(self, shard: Shard, kind: str, value: Any) -> Outcome | None:
        """The outcome of a worker's answer; None when the shard is tried again."""
        if kind == "done":
            return Outcome(shard, row=value)
        if kind == "fatal":
            raise OpenGLIPError(value)
        self.tries[shard.name] = self.tries.get(shard.name, 0) + 1
        if kind == "failed" and self.tries[shard.name] < TRIES:
            self.waiting.append(shard)
            return None
        return Outcome(shard, error=value)


def do_shard(work: Work, shard: Shard, beat: Beat) -> tuple[str, Any]:
    """("done", row), or ("failed", message), or ("broken", message) for an input that will not get better."""
    try:
        return "done", work(shard, beat)
    except DataError as error:
        return "broken", str(error)
    except (OpenGLIPError, OSError, RuntimeError, MemoryError, ValueError) as error:
        return "failed", f"{type(error).__name__}: {error}"


def in_process(shards: Sequence[Shard], job: Job) -> Generator[Outcome]:
    """All shards in this process, one after the other."""
    queue, work = _Queue(shards), job.worker()
    while queue.waiting:
        shard = queue.waiting.popleft()
        if outcome := queue.answered(shard, *do_shard(work, shard, lambda pairs: None)):
            yield outcome


# --- processes on this machine -------------------------------------------------------------------------------------


@dataclass
class _Member:
    number: int
    process: Any
    connection: Connection
    shard: Shard | None = None


def on_processes(shards: Sequence[Shard], job: Job, workers: int) -> Generator[Outcome]:
    """Shards on `workers` processes. Outcomes come as they are ready, and now and then one that says how far it is.

    Raises OpenGLIPError when a worker can't be set up at all.
    """
    queue = _Queue(shards)
    members: list[_Member] = []
    try:
        while queue.waiting or any(m.shard for m in members):
            wanted = min(workers, len(queue.waiting) + sum(m.shard is not None for m in members))
            free = [n for n in range(workers) if n not in {m.number for m in members}]
            members += [_start(job, number) for number in free[: max(0, wanted - len(members))]]
            for member in members:
                if member.shard is None and queue.waiting:
                    _hand_over(member, queue)
            for connection in wait([m.connection for m in members], timeout=5):
                member = next(m for m in members if m.connection is connection)
                if outcome := _hear(member, members, queue):
                    yield outcome
    finally:
        for member in members:
            member.process.kill()
        for member in members:
            member.process.join()
            member.connection.close()


def _start(job: Job, number: int) -> _Member:
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, job, number, os.getpid()), daemon=True)
    process.start()
    theirs.close()  # so that the end of the worker is the end of the pipe
    return _Member(number, process, ours)


def _hand_over(member: _Member, queue: _Queue) -> None:
    shard = queue.waiting.popleft()
    member.shard = shard
    with suppress(BrokenPipeError):  # it died: its pipe has ended, and says so when it is heard
        member.connection.send(shard)


def _hear(member: _Member, members: list[_Member], queue: _Queue) -> Outcome | None:
    shard = member.shard
    try:
        kind, value = member.connection.recv()
    except (EOFError, OSError):
        member.process.join()
        members.remove(member)
        member.connection.close()
        return queue.died(shard, f"exit status {member.process.exitcode}") if shard is not None else None
    if kind == "fatal":
        raise OpenGLIPError(value)
    if shard is None:
        return None
    if kind == "beat":
        return Outcome(shard, pairs=value)
    member.shard = None
    return queue.answered(shard, kind, value)


def _serve(connection: Connection, job: Job, number: int, parent: int) -> None:
    """The worker's process: takes shards from the pipe until it ends; ends itself when the main process is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with suppress(EOFError, OSError):  # the main process is gone
        try:
            work = job.worker(number)
        except (OpenGLIPError, OSError, RuntimeError) as error:
            connection.send(("fatal", f"a worker could not start: {error}"))
            return
        while True:
            shard = connection.recv()
            connection.send(do_shard(work, shard, _Beat(connection)))


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


class _Beat:
    """Tells the main process how many pairs of a shard are done, not too often."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self.last = connection, 0.0

    def __call__(self, pairs: int) -> None:
        now = time.monotonic()
        if now - self.last > _BEAT_SECONDS:
            self.last = now
            self.connection.send(("beat", pairs))


# --- Ray -----------------------------------------------------------------------------------------------------------


def _why(error: Exception) -> str:
    """Ray's errors are pages; their last lines say what happened."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[-300:]}"


class _RayWorker:
    """job: pickled, so that a job which can't be loaded is an answer and not one dead worker after the other."""

    def __init__(self, job: bytes) -> None:
        self.job = job
        self.work: Work | None = None

    def do(self, shard: Shard) -> tuple[str, Any]:
        try:
            work = self.work = self.work or pickle.loads(self.job).worker()
        except (OpenGLIPError, OSError, RuntimeError, ImportError, AttributeError) as error:
            return "fatal", f"a worker could not start: {error}"
        return do_shard(work, shard, lambda pairs: None)


def on_ray(
    shards: Sequence[Shard], job: Job, workers: int, address: str | None = None, gpus: float = 0
) -> Generator[Outcome]:
    """The same on Ray: on the cluster at `address` (its machines see the same input and output folders), or here.

    gpus: of each worker. Raises MissingExtraError without Ray.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        from ray.exceptions import RayError
    except ImportError as error:
        raise MissingExtraError("ray", "label", "the engine 'ray'") from error
    if not shards:
        return
    started = not ray.is_initialized()
    if started:
        here = {} if address else {"num_cpus": workers, "include_dashboard": False}
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **here)
    actor_class: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0)(_RayWorker)
    queue, pickled = _Queue(shards), pickle.dumps(job)
    busy: dict[Any, tuple[Any, Shard]] = {}
    idle: list[Any] = []
    try:
        while queue.waiting or busy:
            while queue.waiting and len(busy) < workers:
                actor = idle.pop() if idle else actor_class.remote(pickled)
                shard = queue.waiting.popleft()
                busy[actor.do.remote(shard)] = (actor, shard)
            for future in ray.wait(list(busy), timeout=5)[0]:
                actor, shard = busy.pop(future)
                try:
                    answer = ray.get(future)
                except RayError as error:
                    outcome = queue.died(shard, _why(error))
                else:
                    idle.append(actor)
                    outcome = queue.answered(shard, *answer)
                if outcome:
                    yield outcome
    finally:
        if started:
            ray.shutdown()
        else:
            for actor in [*idle, *(actor for actor, _ in busy.values())]:
                ray.kill(actor)
