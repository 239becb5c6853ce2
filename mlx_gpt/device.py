"""Which device computes, which BLAS it computes with, and how much memory it takes."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import sys
from importlib.metadata import version
from pathlib import Path

from mlx_gpt.errors import SettingError

GPU_SHARE, CPU_SHARE = 0.6, 0.75  # of the memory there is, for MLX's buffers

_blas = ""


def load_blas() -> str:
    """Load a tuned BLAS so that MLX on Linux finds it first; returns its name, or "" where there is none.

    MLX's Linux wheel links the reference BLAS. Symbols of a library loaded globally before MLX win over it.
    `MLX_GPT_BLAS` names another library, or `none`. Nothing is done on macOS: Accelerate is tuned already.
    """
    global _blas
    if sys.platform != "linux" or _blas or "mlx.core" in sys.modules:
        return _blas
    wanted = os.environ.get("MLX_GPT_BLAS", "")
    if wanted == "none":
        return ""
    mkl = Path(sys.prefix) / "lib"
    candidates = [wanted] if wanted else ["libopenblas.so.0", *map(str, sorted(mkl.glob("libmkl_rt.so*")))]
    os.environ.setdefault("MKL_CBWR", "AUTO")  # MKL: the same numbers from run to run,
    os.environ.setdefault("KMP_BLOCKTIME", "0")  # and no spinning, which starves every other program
    for name in candidates:
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        _blas = Path(name).name
        return _blas
    return ""


def pick_device() -> str:
    """Compute on the GPU where one really answers, else on the CPU; returns "gpu" or "cpu".

    `MLX_GPT_DEVICE` (auto, cpu, gpu) decides otherwise. MLX's own default is the GPU on every Mac, even
    where there is none, so the choice is made by a small product.
    """
    import mlx.core as mx

    named = os.environ.get("MLX_GPT_BLAS", "none")
    if sys.platform == "linux" and named != "none" and _blas != Path(named).name:
        raise SettingError(f"MLX_GPT_BLAS={named}: cannot be loaded; unset it or name a library that can")
    wanted = os.environ.get("MLX_GPT_DEVICE", "auto")
    if wanted not in ("auto", "cpu", "gpu"):
        raise SettingError(f"MLX_GPT_DEVICE={wanted}: choose auto, cpu or gpu")
    if wanted != "cpu" and mx.is_available(mx.gpu):
        try:
            with mx.stream(mx.gpu):
                mx.eval(mx.ones((8, 8)) @ mx.ones((8, 8)))
            mx.set_default_device(mx.gpu)
            return "gpu"
        except RuntimeError as error:
            if wanted == "gpu":
                raise SettingError(f"MLX_GPT_DEVICE=gpu: the GPU does not answer ({error}); use cpu") from error
    elif wanted == "gpu":
        raise SettingError("MLX_GPT_DEVICE=gpu: MLX finds no GPU here; use cpu or auto")
    mx.set_default_device(mx.cpu)
    return "cpu"


def slowness() -> str:
    """One line that says why training will be slow on this machine and what to install, or ""."""
    if sys.platform != "linux" or _blas or os.environ.get("MLX_GPT_DEVICE") == "gpu":
        return ""
    remedy = "pip install mkl" if platform.machine() == "x86_64" else "apt-get install libopenblas0-pthread"
    return f"no tuned BLAS found: matrix products run at a small part of this machine's speed; {remedy}"


def description() -> str:
    """Device, BLAS and platform in one line, for logs and reports."""
    import mlx.core as mx

    device = "gpu" if mx.default_device() == mx.gpu else "cpu"
    blas = f", {_blas}" if _blas else ""
    return f"MLX {version('mlx')} on {device} ({platform.system()} {platform.machine()}{blas})"


def peak_memory() -> int:
    """The most memory this process has held so far, in bytes, MLX's buffers included."""
    import mlx.core as mx

    unit = 1 if sys.platform == "darwin" else 1024
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return max(resident, mx.get_peak_memory())


def memory_of_machine() -> int:
    """Bytes of memory this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def room_to_compute() -> tuple[int, str]:
    """Bytes that MLX's buffers may fill here, and in words what they are a share of.

    The rest is for the system and other programs. On a GPU the share is of the working set that Metal recommends:
    beyond it a command buffer fails, and Metal ends the process.
    """
    import mlx.core as mx

    if mx.default_device() == mx.gpu:
        told = mx.device_info(mx.gpu).get("max_recommended_working_set_size", 0)
        if told:
            return int(GPU_SHARE * int(told)), f"{GPU_SHARE:.0%} of the GPU's working set of {int(told) / 1e9:.1f} GB"
    whole = memory_of_machine()
    return int(CPU_SHARE * whole), f"{CPU_SHARE:.0%} of this machine's {whole / 1e9:.1f} GB"


def give_back_memory() -> None:
    """Hand freed memory that the C library holds on to back to the system; glibc keeps hundreds of megabytes."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def resident_memory() -> int:
    """Bytes of memory this process holds now; on macOS, the most it has held so far."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return peak_memory()
