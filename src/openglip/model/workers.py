"""Whole images or branches side by side on a CPU, since small layers do not keep several threads busy."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """As many workers as torch has threads here, unless `at_most` is less; on another device than the CPU only one.

    Each item gets its share of the threads and runs in the caller's modes (inference, gradients, autocast, plain
    formulas); one item alone is run by the caller, with all threads.
    """

    def __init__(self, device: torch.device, at_most: int | None = None) -> None:
        self.threads = torch.get_num_threads()
        most = self.threads if at_most is None else max(1, at_most)
        self._count = min(self.threads, most) if device.type == "cpu" else 1
        self._pool = ThreadPoolExecutor(self._count, "openglip")

    def __len__(self) -> int:
        return self._count

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._pool.shutdown(cancel_futures=True)

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Results in order; raises what the first failing item raised."""
        workers = min(len(self), len(items))
        if workers < 2:
            return [function(item) for item in items]
        gradients, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        autocast, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

        def run(item: Item) -> Result:
            torch.set_num_threads(self.threads // workers)  # for this worker only, like the modes
            with (
                torch.inference_mode(inference),
                torch.set_grad_enabled(gradients),
                torch.autocast("cpu", dtype, enabled=autocast),
            ):
                return function(item)

        try:
            contexts = [contextvars.copy_context() for _ in items]
            return list(self._pool.map(lambda context, item: context.run(run, item), contexts, items))
        finally:
            torch.set_num_threads(self.threads)  # threads that start later inherit this number
