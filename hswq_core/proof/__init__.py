"""Proof that a quantized model draws what the original draws: the same noise, step by step, and the pictures."""

from .page import proof_page
from .pair import Pair, compare_latents
from .verdict import Proof

__all__ = ["Pair", "Proof", "compare_latents", "proof_page"]
