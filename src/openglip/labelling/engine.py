"""Shards to workers, on this machine or on Ray: a free worker takes the next one, a dead worker's shard is redone."""

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
from typing import Any

from openglip.errors import DataError, MissingExtraError, OpenGLIPError
from openglip.labelling.inputs import Shard
from openglip.runtime import Progress, num_threads, set_num_threads

MAX_DEATHS = 8  # of workers while they had a shard, before it counts as the cause
MAX_TRIES = 2  # of a shard that raised an error
_PROGRESS_SECONDS = 0.5

Row = dict[str, Any]
ShardFunction = Callable[[Shard, Callable[[Progress], None]], Row]
"""Processes a shard, calls back with the pairs that are done, and returns the shard's row of the manifest."""


Job = Callable[[int], ShardFunction]
"""Called once in each worker with its number; returns what processes shards there. Picklable, save in this process."""


@dataclass(frozen=True)
class Outcome:
    """The end of a shard, or how far it is.

    Attributes:
        shard: The shard.
        row: Its row of the manifest.
        error: The error of its last try.
        pairs: Pairs that are done, while it is being processed.
    """

    shard: Shard
    row: Row | None = None
    error: str | None = None
    pairs: int | None = None


Run = Callable[[Sequence[Shard], Job], Generator[Outcome]]
"""Gives shards to workers; yields their outcomes."""


class _Queue:
    """Shards still to do, and how often each was tried."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.waiting = deque(shards)
        self.deaths: dict[str, int] = {}
        self.tries: dict[str, int] = {}

    def worker_died(self, shard: Shard, how: str) -> Outcome | None:
        """Take back the shard of a dead worker; an outcome when too many have died."""
        self.deaths[shard.name] = self.deaths.get(shard.name, 0) + 1
        if self.deaths[shard.name] >= MAX_DEATHS:
            return Outcome(shard, error=f"its worker died {MAX_DEATHS} times, last with {how}")
        self.waiting.appendleft(shard)
        return None

    def worker_answered(self, shard: Shard, kind: str, value: Any) -> Outcome | None:
        """The outcome of a worker's answer; None when the shard is tried again."""
        if kind == "done":
            return Outcome(shard, row=value)
        if kind == "fatal":
            raise OpenGLIPError(value)
        self.tries[shard.name] = self.tries.get(shard.name, 0) + 1
        if kind == "failed" and self.tries[shard.name] < MAX_TRIES:
            self.waiting.append(shard)
            return None
        return Outcome(shard, error=value)


def process_shard(function: ShardFunction, shard: Shard, progress: Callable[[Progress], None]) -> tuple[str, Any]:
    """("done", row), ("failed", message), or ("broken", message) for an input that another try can't change."""
    try:
        return "done", function(shard, progress)
    except DataError as error:
        return "broken", str(error)
    except (OpenGLIPError, OSError, RuntimeError, MemoryError, ValueError) as error:
        return "failed", f"{type(error).__name__}: {error}"


def in_process(shards: Sequence[Shard], job: Job) -> Generator[Outcome]:
    """Process all shards in this process, one after the other, and restore the number of threads afterwards."""
    queue, threads = _Queue(shards), num_threads()
    try:
        function = job(0)
        while queue.waiting:
            shard = queue.waiting.popleft()
            if outcome := queue.worker_answered(shard, *process_shard(function, shard, lambda progress: None)):
                yield outcome
    finally:
        set_num_threads(threads)


# ---- processes on this machine


@dataclass
class _Worker:
    number: int
    process: Any
    connection: Connection
    shard: Shard | None = None


def on_processes(shards: Sequence[Shard], job: Job, count: int) -> Generator[Outcome]:
    """Process shards on `count` processes.

    Yields:
        Outcomes as they come, and now and then one that says how far a shard is.

    Raises:
        OpenGLIPError: A worker can't be started.
    """
    queue = _Queue(shards)
    workers: list[_Worker] = []
    try:
        while queue.waiting or any(worker.shard for worker in workers):
            needed = min(count, len(queue.waiting) + sum(worker.shard is not None for worker in workers))
            free_numbers = [n for n in range(count) if n not in {worker.number for worker in workers}]
            workers += [_start(job, number) for number in free_numbers[: max(0, needed - len(workers))]]
            for worker in workers:
                if worker.shard is None and queue.waiting:
                    worker.shard = queue.waiting.popleft()
                    with suppress(BrokenPipeError):  # the worker died; `_receive` will notice
                        worker.connection.send(worker.shard)
            for connection in wait([worker.connection for worker in workers], timeout=5):
                worker = next(worker for worker in workers if worker.connection is connection)
                if outcome := _receive(worker, workers, queue):
                    yield outcome
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()
            worker.connection.close()


def _start(job: Job, number: int) -> _Worker:
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    parent_end, worker_end = context.Pipe()
    process = context.Process(target=_run_worker, args=(worker_end, job, number, os.getpid()), daemon=True)
    process.start()
    worker_end.close()  # so that the end of the worker is the end of the pipe
    return _Worker(number, process, parent_end)


def _receive(worker: _Worker, workers: list[_Worker], queue: _Queue) -> Outcome | None:
    shard = worker.shard
    try:
        kind, value = worker.connection.recv()
    except (EOFError, OSError):
        worker.process.join()
        workers.remove(worker)
        worker.connection.close()
        return queue.worker_died(shard, f"exit status {worker.process.exitcode}") if shard is not None else None
    if kind == "fatal":
        raise OpenGLIPError(value)
    if shard is None:
        return None
    if kind == "progress":
        return Outcome(shard, pairs=value)
    worker.shard = None
    return queue.worker_answered(shard, kind, value)


def _run_worker(connection: Connection, job: Job, number: int, parent: int) -> None:
    """Process shards from the pipe until it ends; exit when the main process is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process
    threading.Thread(target=_exit_with, args=(parent,), daemon=True).start()
    with suppress(EOFError, OSError):  # the main process is gone
        try:
            function = job(number)
        except (OpenGLIPError, OSError, RuntimeError) as error:
            connection.send(("fatal", f"a worker could not start: {error}"))
            return
        while True:
            shard = connection.recv()
            connection.send(process_shard(function, shard, _ProgressSender(connection)))


def _exit_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


class _ProgressSender:
    """Tells the main process how many pairs of a shard are done, at most twice a second."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self.last = connection, 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self.last > _PROGRESS_SECONDS:
            self.last = now
            self.connection.send(("progress", progress.done))


# ---- Ray


class _RayWorker:
    """A worker on Ray. The job comes pickled, so that one which can't be loaded is an answer and not a dead worker."""

    def __init__(self, job: bytes) -> None:
        self.job = job
        self.function: ShardFunction | None = None

    def process(self, shard: Shard) -> tuple[str, Any]:
        try:
            function = self.function = self.function or pickle.loads(self.job)(0)
        except (OpenGLIPError, OSError, RuntimeError, ImportError, AttributeError) as error:
            return "fatal", f"a worker could not start: {error}"
        return process_shard(function, shard, lambda progress: None)


def on_ray(
    shards: Sequence[Shard], job: Job, count: int, address: str | None = None, gpus: float = 0
) -> Generator[Outcome]:
    """Process shards on Ray.

    Args:
        shards: The shards.
        job: What workers do.
        count: Number of workers.
        address: Address of a cluster, whose machines see the same input and output folders; None starts Ray here.
        gpus: GPUs per worker.

    Yields:
        Outcomes as they come.

    Raises:
        MissingExtraError: Ray is not installed.
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
        here = {} if address else {"num_cpus": count, "include_dashboard": False}
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **here)
    actor_class: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0)(_RayWorker)
    queue, pickled = _Queue(shards), pickle.dumps(job)
    busy: dict[Any, tuple[Any, Shard]] = {}
    idle: list[Any] = []
    try:
        while queue.waiting or busy:
            while queue.waiting and len(busy) < count:
                actor = idle.pop() if idle else actor_class.remote(pickled)
                shard = queue.waiting.popleft()
                busy[actor.process.remote(shard)] = (actor, shard)
            for future in ray.wait(list(busy), timeout=5)[0]:
                actor, shard = busy.pop(future)
                try:
                    answer = ray.get(future)
                except RayError as error:
                    last_words = " ".join(str(error).split())[-300:]  # it is pages long; its end says what happened
                    outcome = queue.worker_died(shard, f"{type(error).__name__}: {last_words}")
                else:
                    idle.append(actor)
                    outcome = queue.worker_answered(shard, *answer)
                if outcome:
                    yield outcome
    finally:
        if started:
            ray.shutdown()
        else:
            for actor in [*idle, *(actor for actor, _ in busy.values())]:
                ray.kill(actor)
