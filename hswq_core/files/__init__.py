"""Checkpoint files: reading tensor by tensor, writing in a stream, the formats, the names."""
