"""Where and how a process computes: device, precision, the processes of one run, and what makes a start quick.

Nothing here imports torch before it is needed, so that any module may import this one.
"""

from __future__ import annotations

import ctypes
import datetime
import gc
import math
import os
import platform
import sys
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from openglip.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Precision = Literal["fp32", "bf16", "auto"]

# One process evaluates or writes a checkpoint while the others wait for it.
PROCESS_TIMEOUT = datetime.timedelta(days=2)


@dataclass(frozen=True)
class Progress:
    """How far something that takes long has come; every `progress=` callback receives it.

    Attributes:
        done: Units that are done.
        total: Units in all; None when that is not known.
        unit: What is counted, in the plural: "images", "shards", "steps".
        message: What is being done, where there is more to say than the count.
        figures: Measured values by name, such as the loss.
    """

    done: int
    total: int | None
    unit: str
    message: str = ""
    figures: Mapping[str, float] = field(default_factory=dict[str, float])


# ---- device and precision


def pick_device(device: str | torch.device) -> torch.device:
    """The device of a name.

    Args:
        device: "auto" (CUDA where there is one, else the CPU), or any name that torch knows.

    Raises:
        ConfigError: The device is unknown or can't be used.
    """
    import torch

    if isinstance(device, str):
        device = device.strip().lower()
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
        torch.empty(0, device=picked).cpu()  # fails for "meta", which computes nothing
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise ConfigError(
            f"device {str(device)!r} can't be used; auto, cpu, cuda, cuda:1 or mps may be: {str(error).splitlines()[0]}"
        ) from error
    return picked


def pick_precision(precision: Precision, device: torch.device) -> Literal["fp32", "bf16"]:
    """The precision to compute in.

    Args:
        precision: "auto" means bf16 where the processor computes it natively (AVX512-BF16, AMX; CUDA from Ampere on).
        device: Where the model runs.

    Raises:
        ConfigError: There is no such precision.
    """
    import torch

    if precision not in ("fp32", "bf16", "auto"):
        raise ConfigError(f"precision is {precision!r}; it must be 'fp32', 'bf16' or 'auto'")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    return "bf16" if device.type == "cpu" and has_native_bf16() else "fp32"


def has_native_bf16() -> bool:
    """Whether this CPU multiplies bf16 natively, as far as torch can tell."""
    import torch

    checks = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile")]
    return any(check() for check in checks if check is not None)


# ---- the processes of one run; alone, every function is the identity. Every process has to call every function.


@contextmanager
def process_group(device: torch.device) -> Generator[torch.device]:
    """Join the processes that `torchrun` started, if it did.

    Args:
        device: The kind of device of all processes.

    Yields:
        This process's device.
    """
    if not _started_with_others() or _joined():
        yield device
        return
    import torch
    import torch.distributed as dist

    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PROCESS_TIMEOUT)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def _started_with_others() -> bool:
    """Whether `torchrun` started several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _joined() -> bool:
    """Whether this process belongs to a group; one that never imported torch does not."""
    dist = sys.modules.get("torch.distributed")
    return dist is not None and dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """Number of processes of the run."""
    return sys.modules["torch.distributed"].get_world_size() if _joined() else 1


def rank() -> int:
    """Number of this process among those of the run, from 0."""
    return sys.modules["torch.distributed"].get_rank() if _joined() else 0


def is_first_process() -> bool:
    """Whether this is the first of the processes that `torchrun` started, before they have joined too."""
    return os.environ.get("RANK", "0") == "0"


@dataclass(frozen=True)
class Processes:
    """The processes that share a piece of work, as one of them sees them."""

    rank: int = 0
    size: int = 1

    def wait(self) -> None:
        """Return when all of them have come here."""
        if self.size > 1:
            sys.modules["torch.distributed"].barrier()


@contextmanager
def sharing_processes() -> Generator[Processes]:
    """Join the processes that `torchrun` started, if it did, to share a piece of work.

    A process that has joined before, such as the one of a training that evaluates, works alone: the others do something
    else meanwhile.
    """
    if not _started_with_others() or _joined():
        yield Processes()
        return
    with process_group(pick_device("cpu")):
        yield Processes(rank(), world_size())


def mean_over_ranks(values: Tensor) -> Tensor:
    """Mean of a tensor over all processes, the same on each; not finite where one of them is not."""
    import torch.distributed as dist

    if world_size() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def from_first_rank(value: object, device: torch.device) -> object:
    """The first process's value of a small picklable object, on all processes."""
    import torch.distributed as dist

    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=device if device.type == "cuda" else None)
    return box[0]


# ---- threads and processors


def device_name(device: torch.device) -> str:
    """What the maker calls a device, for instance "NVIDIA H200" or "x86_64"."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def num_threads() -> int:
    """Threads that torch uses in this process."""
    import torch

    return torch.get_num_threads()


def set_num_threads(threads: int) -> None:
    """Set the threads that torch uses in this process."""
    import torch

    torch.set_num_threads(threads)


def gpu_count() -> int:
    """GPUs that torch can use."""
    import torch

    return torch.cuda.device_count()


def processor_count() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---- start-up and memory


def peak_memory() -> float:
    """Bytes that this process held at most: of the GPU's memory if it uses one, else of main memory; NaN if unknown."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def no_collection() -> Generator[None]:
    """Pause garbage collection.

    Importing torch or building a model makes so many objects that Python collects garbage several times; each of these
    walks all of torch for 0.2 to 0.4 s and finds nothing.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def no_initial_draws() -> AbstractContextManager[Any]:
    """Skip drawing initial weights that loaded ones will replace, which is most of the time of building a model."""
    from torch import Tensor, nn
    from torch.overrides import TorchFunctionMode

    draws = {
        *(Tensor.normal_, Tensor.uniform_, Tensor.erfinv_),
        *(nn.init.normal_, nn.init.uniform_, nn.init.trunc_normal_, nn.init.kaiming_uniform_),
        nn.init.xavier_uniform_,
    }

    class NoDraws(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if func in draws:
                return args[0] if args else kwargs["tensor"]
            return func(*args, **kwargs)

    return NoDraws()


def keep_onednn_kernels() -> None:
    """Let oneDNN keep 8,192 compiled kernels, unless the environment sets another number.

    It compiles a kernel for each shape and by default keeps 1,024 of them, fewer than a folder of photos of several
    sizes needs: it would compile them again and again (docs/performance.md). It reads the variable when it computes for
    the first time. A kernel takes some 75 KiB.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")


def torchvision_nms() -> Any:
    """torchvision's `nms`, if possible without importing torchvision.

    That import takes as long as torch's, since it brings in torch's compiler; the kernel alone is there as soon as its
    library is loaded.
    """
    import torch

    spec = None if "torchvision" in sys.modules else find_spec("torchvision")
    for folder in (spec and spec.submodule_search_locations) or ():
        for library in sorted(Path(folder).glob("_C*")):
            try:
                torch.ops.load_library(library)  # pyright: ignore[reportUnknownMemberType]
                return torch.ops.torchvision.nms
            except (OSError, AttributeError):
                continue  # of another torch, or no library: the import says what is wrong
    from torchvision.ops import nms  # pyright: ignore[reportMissingTypeStubs]

    return nms


def release_memory() -> None:
    """Return freed memory to the system.

    Tensors of ever other shapes leave holes that glibc keeps: a process that runs for hours would grow.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
