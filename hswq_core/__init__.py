"""HSWQ: Hybrid Sensitivity Weighted Quantization of diffusion models to FP8.

    from hswq_core import load_statistics, quantize

    statistics = load_statistics("session.safetensors")
    report = quantize("model.safetensors", "out.safetensors", statistics, mode="v2", keep_ratio=0.25)

Pure torch, safetensors and numpy; nothing here knows ComfyUI. Read the folders in the order of the data:
``calibration`` (hooks -> statistics), ``sensitivity`` and ``planning`` (statistics -> plan), ``grids`` and
``rounding`` (the arithmetic of one weight), ``files`` (checkpoints and formats), ``quantize_file`` (plan + source
-> quantized file), ``doctor`` (what files of any tool are, and what is wrong with them).
"""

from .api import convert, diagnose, inspect, load_statistics, merge_statistics, quantize, repair
from .calibration import DualMonitor
from .errors import HSWQError
from .options import QuantizeOptions
from .version import __version__

__all__ = [
    "DualMonitor",
    "HSWQError",
    "QuantizeOptions",
    "__version__",
    "convert",
    "diagnose",
    "inspect",
    "load_statistics",
    "merge_statistics",
    "quantize",
    "repair",
]
