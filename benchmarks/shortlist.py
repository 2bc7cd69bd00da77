"""Whether a cheaper rule could say which layers are worth measuring: what is lost if only those may be kept.

    python -m benchmarks.shortlist --comfyui DIR --folder DIR

On the bundled tiny model, V1, calibrated rounding. Kept are the layers that avoid most impact for their bytes, as a
budget keeps them, of all layers or of the shortlist alone; the figures are the impact that is left, over that with all.
"""

from __future__ import annotations

from collections.abc import Set

from . import fidelity, inprocess_comfy

SHARE_OF_BYTES = 0.16  # what the reference keeps with a keep ratio of 0.10


def main() -> None:
    args = inprocess_comfy.parser(__doc__, folder=True).parse_args()
    inprocess_comfy.start(args.comfyui)
    from hswq.hswq_core.files.checkpoint import CheckpointReader  # type: ignore[import-not-found]
    from hswq.hswq_core.grids import E4M3  # type: ignore[import-not-found]
    from hswq.hswq_core.planning.selection import cut_by_bytes, ranked  # type: ignore[import-not-found]
    from hswq.hswq_core.sensitivity.error import relative_output_error  # type: ignore[import-not-found]

    args.folder.mkdir(parents=True, exist_ok=True)
    original = inprocess_comfy.TINY_MODEL / "hswq_tiny.safetensors"
    model, statistics = fidelity.calibrate(original, args.folder / "shortlist.safetensors")
    measured = fidelity.measure(model, statistics, "v1", "calibrated").layers
    impact = {name: layer.impacts["v1 calibrated"] for name, layer in measured.items()}
    error: dict[str, float] = {}
    cost: dict[str, int] = {}
    with CheckpointReader(original) as source:
        for name, layer in measured.items():
            weight = source.tensor(f"model.diffusion_model.{name}.weight")
            cost[name] = weight.numel()
            error[name] = relative_output_error(weight, layer.importance, layer.second_moment, E4M3, scaling="none")
    variance = {name: layer.sensitivity for name, layer in measured.items()}
    available = int(SHARE_OF_BYTES * sum(cost.values()))

    def left(shortlist: Set[str]) -> float:
        kept = cut_by_bytes({name: impact[name] for name in shortlist}, cost, available, per_byte=True)
        return sum(impact[name] for name in impact.keys() - kept)

    everything = left(impact.keys())
    largest = ranked(impact)
    print(f"{len(impact)} layers; of all impact: ", end="")
    print(", ".join(f"{name} {impact[name] / sum(impact.values()):.2f}" for name in largest[:3]))
    rules = {"error": error, "variance": variance}
    rules |= {f"{rule} per byte": {n: v / cost[n] for n, v in values.items()} for rule, values in rules.items()}
    for rule, values in rules.items():
        order = ranked(values)
        found = (f"{share:.0%} {left(set(order[: int(share * len(order))])) / everything:.2f}" for share in (0.5, 0.75))
        print(f"measuring the upper part by {rule}: " + ", ".join(found))


if __name__ == "__main__":
    main()
