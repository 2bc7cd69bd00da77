"""How sensitive each layer is to quantization, by three rules: ``variance``, ``error``, ``measured``."""
