"""HSWQ: Hybrid Sensitivity Weighted Quantization of diffusion models to FP8.

Pure torch, safetensors and numpy; nothing here knows ComfyUI. Read the folders in the order of the data:
``calibration`` (hooks -> statistics), ``planning`` (statistics -> plan), ``fp8`` (the arithmetic of one
weight), ``files`` (checkpoints and formats), ``quantize`` (plan + source file -> FP8 file).
"""

__version__ = "0.1.0"
