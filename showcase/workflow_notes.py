"""What the example workflows say of themselves."""

QUICK_START = """## HSWQ: from your checkpoint to a compared FP8 one

1. Choose your checkpoint at **①**. SDXL, Pony, Illustrious: any checkpoint that ComfyUI opens.
2. Press **Run**. ComfyUI makes an image with the original and measures the model while it does, finds the layers \
that matter, writes an FP8 copy, makes the image again with the copy, and compares the two.

The file is in *output/checkpoints*, and *HSWQ Loader* lists it. The next run replaces it (*overwrite*).
Drag the line in the chart of *Write FP8*: if you keep more layers, the file is larger and the image closer."""
MORE_IMAGES = """## For a file you publish

One image is enough to see it work. For a file that others use, calibrate with about **32 images of different \
subjects**. The workflow *full recipe* does this for you. Or run this workflow with other prompts: each run is added \
to the session on disk (*output/hswq*), even after a restart.

A *keep_ratio* of 0.25 is safe. 0.10 gives a smaller file; according to the model card it is enough for most SDXL \
models. V1 files open in any loader, V2 files in *HSWQ Loader*."""
FULL_RECIPE = """## The full recipe: the closest image at a given size

1. Choose your checkpoint at **①** and press **Run**. You do not need to change anything else.
2. *Calibrate Run* makes 32 images from varied prompts (or yours: one per line, or the name of a text file in \
*input*). Cancelling keeps the finished images, and *Run* continues.
3. *Measure Sensitivity* measures how much the model's output changes when each layer is quantized.
4. *Write FP8* keeps the layers that matter most and rounds the others so that their errors cancel. This takes \
minutes.

Not enough memory? Set *rows_per_layer* to 256. Without rows (0), choose *rounding: nearest* in both nodes."""
DAILY_USE = """## V2 for daily use

Choose your V2 file at **①** (it is in *output/checkpoints*; you can move it to *models/checkpoints*) and press \
**Run**. To use a LoRA, choose it at **②** and switch the node on with *Ctrl+B*.

Weights stay FP8 in memory, and kept layers stay FP16. A LoRA is added to the real weights; the layers that it \
changes are FP16 while it is applied."""
COMPARE_MODES = """## FP16, V1 and V2, side by side

Choose the original at **①**, its V1 file at **②** and its V2 file at **③** (the *quick start* writes them: run it \
once with *mode* v1 and once with v2), and press **Run**. All three make the same image from the same noise.

Move the pointer over the images: left of the line is FP16, right of it the quantized model."""
STOCK_LOADERS = """## Files for people without this pack

Choose your checkpoint at **①** and press **Run**. It writes two files to *output/checkpoints*:

- **comfy**: scaled FP8 in ComfyUI's own format. Recent ComfyUI opens it with *Load Checkpoint*. Convolutions stay \
FP16, so the file is larger.
- **V1**: plain FP8, for every FP8 loader. On cards with FP8 arithmetic (RTX 40 and 50), stock loaders also cast the \
kept layers to FP8; *HSWQ Loader* does not.

You can convert a V2 file without the original: *hswq convert FILE NEW --to comfy*."""
