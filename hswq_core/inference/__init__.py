"""What a loaded model computes with its codes: dequantized weights, or products in FP8."""
