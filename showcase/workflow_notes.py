"""What the example workflows say of themselves."""

QUICK_START = """## HSWQ: from your checkpoint to a compared FP8 one

1. Choose your checkpoint at **①**. SDXL, Pony, Illustrious: any checkpoint that ComfyUI opens.
2. Press **Run**. The picture on the left is made with the original and measured on the way; an FP8 copy is \
written; the picture is made again with it; both are compared.

The file goes to *output/checkpoints*, and *HSWQ Loader* lists it from then on. A later run replaces it \
(*overwrite*).
Drag the line in the chart of *Write FP8*: more layers kept is a larger file and a closer picture."""
MORE_PICTURES = """## For a file you publish

One picture is enough to see it work. For a file that others use, calibrate with about **32 pictures of different \
subjects**: that is what the workflow *full recipe* does by itself. Or queue this one with other prompts: the \
session adds up on disk (*output/hswq*), also over restarts.

*keep_ratio* 0.25 is safe; 0.10 gives a smaller file, and by the model card is enough for most SDXL models. V1 \
files open in any loader, V2 files in *HSWQ Loader*."""
FULL_RECIPE = """## The full recipe: the closest picture at a given size

1. Choose your checkpoint at **①** and press **Run**. Nothing else must be touched.
2. *Calibrate Run* draws 32 pictures of varied prompts (or of yours: one a line, or the name of a text file in \
*input*). Cancel keeps what is finished, and *Run* continues.
3. *Measure Sensitivity* quantizes one layer at a time and looks at what it does to the model's output. It also \
continues where it was cancelled.
4. *Write FP8* keeps the layers that matter most and rounds the others so that their errors cancel: minutes, once.

Little memory? Set *rows_per_layer* to 256. Without rows (0), choose *rounding: nearest* in both nodes."""
DAILY_USE = """## V2 for daily use

Choose your V2 file at **①** (it is in *output/checkpoints*, and may be moved to *models/checkpoints*) and press \
**Run**. For a LoRA, choose it at **②** and switch the node on with *Ctrl+B*.

Weights stay FP8 in memory, kept layers stay FP16. A LoRA is added to the real weights; the layers it changes are \
FP16 while it is applied."""
COMPARE_MODES = """## FP16, V1 and V2, side by side

Choose the original at **①**, its V1 file at **②** and its V2 file at **③** (the *quick start* writes them: run it \
once with *mode* v1 and once with v2), and press **Run**. All three draw the same picture from the same noise.

Move the pointer over the pictures: left of the line is FP16, right of it the quantized model."""
STOCK_LOADERS = """## Files for people without this pack

Choose your checkpoint at **①** and press **Run**. It writes two files to *output/checkpoints*:

- **comfy**: scaled FP8 in ComfyUI's own format. Recent ComfyUI opens it with *Load Checkpoint* as it is. \
Convolutions stay FP16, so it is larger.
- **V1**: plain FP8, for every FP8 loader. On cards with FP8 arithmetic (RTX 40 and 50) stock loaders cast the kept \
layers down, too; *HSWQ Loader* does not.

A V2 file can be converted without the original: *python -m hswq_core convert FILE NEW --to comfy*."""
