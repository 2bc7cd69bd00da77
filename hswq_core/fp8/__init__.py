"""The arithmetic of one weight: the FP8 grid, the weighted histogram, the search for a scale."""
