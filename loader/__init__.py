"""The only part that touches ComfyUI's loading, ops and sampling internals. Features are detected, never versions."""
