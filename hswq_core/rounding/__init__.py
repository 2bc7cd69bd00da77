"""From weights to codes: to the nearest, or calibrated so that rounding errors cancel in the layer's output."""
