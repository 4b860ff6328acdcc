"""Device, threads, memory and precision of a run."""

import ctypes
import functools
import platform
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from experiments.engine.build import UserError
from stn.convolution import plain_operations

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32", "bf16", "plain")


@dataclass(frozen=True)
class Compute:
    """What a run computes on, and how.

    Attributes:
        device: the CPU or a GPU.
        precision: "fp32", "bf16", or "plain" for float32 without any of the measures for speed.
    """

    device: torch.device
    precision: str

    @property
    def plain(self) -> bool:
        """Whether all measures for speed are off."""
        return self.precision == "plain"

    @property
    def graph(self) -> bool:
        """Whether training steps are replayed as a CUDA graph."""
        return self.device.type == "cuda" and not self.plain

    def autocast(self) -> AbstractContextManager[object]:
        """Returns a context for the forward pass of a training step."""
        if self.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return plain_operations() if self.plain else nullcontext()

    @property
    def name(self) -> str:
        """The device as results name it."""
        return device_name(self.device, torch.get_num_threads())


def device_name(device: torch.device, threads: int) -> str:
    """Returns a device's name in results.

    Args:
        device: the CPU or a GPU.
        threads: number of CPU threads.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"cpu: {name}, {threads} thread{'s' if threads > 1 else ''}"


def choose(device: str, precision: str, threads: int | None) -> Compute:
    """Sets the threads and the memory allocator of this process, and returns what it computes on.

    Args:
        device: one of `DEVICES`. auto is the GPU where there is one.
        precision: one of `PRECISIONS`. auto is bf16 where the processor multiplies it in hardware, else fp32.
        threads: number of CPU threads; None for all cores.

    Raises:
        UserError: device is cuda, and torch finds no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but torch sees no CUDA device: choose device=cpu or auto.")
    if threads:
        torch.set_num_threads(threads)
    chosen = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    if precision == "auto":
        precision = "bf16" if multiplies_bf16(chosen.type) else "fp32"
    compute = Compute(chosen, precision)
    if not compute.plain:
        keep_memory()
    return compute


def keep_memory() -> None:
    """Makes glibc keep freed memory for the next step; does nothing without glibc.

    Every step frees and allocates some hundred megabytes of activations. By default glibc maps each large block
    anew, and the kernel zeroes it page by page. `scripts/benchmark.py tricks` measures the cost.
    """
    set_allocator(mapped=1 << 30, trimmed=(1 << 31) - 1)


def set_allocator(*, mapped: int, trimmed: int) -> None:
    """Sets glibc's malloc.

    Args:
        mapped: blocks of at least so many bytes are mapped from the kernel one by one.
        trimmed: so many free bytes at the end of the heap are returned to the kernel.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, mapped)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, trimmed)  # M_TRIM_THRESHOLD


@functools.cache
def multiplies_bf16(device: str) -> bool:
    """Whether the hardware multiplies bfloat16 itself.

    Args:
        device: its type, cpu or cuda.
    """
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
