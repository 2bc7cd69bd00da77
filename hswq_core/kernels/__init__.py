"""Kernels in Triton, for GPUs where it is at hand; each does in one launch what torch does in many.

The modules with kernels import Triton, so only ``backend.py`` imports them, where Triton works.
"""
