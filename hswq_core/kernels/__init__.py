"""Kernels in Triton, for GPUs where it is at hand; each does in one launch what torch does in many.

Nothing here is needed: whoever calls one has the same computation in torch's own operations. The modules with
kernels import Triton, so import them only where ``triton_works`` says so.
"""
