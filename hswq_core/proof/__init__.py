"""Proof that a quantized model makes the images of the original: the same noise, step by step, and the images."""

from .page import proof_page
from .pair import Pair, compare_latents
from .verdict import Proof

__all__ = ["Pair", "Proof", "compare_latents", "proof_page"]
