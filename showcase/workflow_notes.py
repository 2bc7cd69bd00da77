"""What the example workflows say of themselves, all in headings: a workflow is first seen as a whole, from afar."""

QUICK_START = """# Your checkpoint in 8 bits
## 1. Choose it at **①**. &nbsp; 2. Press **Run**.
## An image is made with the original, the layers that matter are found, an 8-bit copy is written and makes the same \
image, and both are compared. The copy is in *output/checkpoints*; *HSWQ Loader* lists it. The next run replaces it \
(*overwrite*). *recipe* says what the copy is for; for another size, drag in the chart of \
*Write the copy*. Give both *KSamplers* the same settings."""
MORE_IMAGES = """# For a file you publish
## Use the *full recipe*: 32 images, proof and model card.
## One image is enough to see it work. Every run with another prompt is added to the session on disk (*output/hswq*), \
even after a restart. A *keep ratio* of 0.25 is safe; with *measured*, 0.10 is closer than 0.25 by variance."""
FULL_RECIPE = """# The full recipe: a file to publish, with its proof
## 1. Choose your checkpoint at **①**. &nbsp; 2. Press **Run**.
## 32 images are made from varied prompts (or yours: one per line, or the name of a text file in *input*). Cancel when \
you like: finished images are kept, and *Run* continues. Then the layers are measured, the file is written, and \
original and copy draw the same pictures from the same noise. *HSWQ Publish* writes what an upload needs.
## Not enough memory? Set *rows per layer* to 256. Without rows (0), choose *rounding: nearest* in both nodes."""
DAILY_USE = """# Your copy for daily use
## 1. Choose it at **①**. &nbsp; 2. Press **Run**.
## It is in *output/checkpoints*; you can move it to *models/checkpoints*. To use a LoRA, choose it at **②** and \
switch the node on with *Ctrl+B*. Weights stay in 8 bits in memory; the layers that a LoRA changes are 16 bits \
meanwhile."""
COMPARE_MODES = """# The original, V1 and V2, side by side
## 1. The original at **①**, its V1 at **②**, its V2 at **③**. &nbsp; 2. **Run**.
## The *quick start* writes them: run it once with *mode* v1 and once with v2. All three make the same image from the \
same noise. Move the pointer over the images: left of the line is the original, right of it the copy."""
STOCK_LOADERS = """# Files for people without this pack
## 1. Choose your checkpoint at **①**. &nbsp; 2. Press **Run**.
## **comfy** is scaled FP8 in ComfyUI's own format, for *Load Checkpoint* of recent versions; convolutions stay in 16 \
bits, so the file is larger. **V1** is plain FP8 for every loader; on RTX 40 and 50, stock loaders also cast the kept \
layers to FP8. *hswq convert FILE NEW --to comfy* makes one of a V2 file."""
MERGE = """# A merge with a LoRA, baked in and quantized
## 1. Two checkpoints at **①** and **②**, a LoRA at **③**. &nbsp; 2. Press **Run**.
## Switch the LoRA on with *Ctrl+B*. What is connected to *HSWQ Calibrate Run* is measured, and the same MODEL, \
connected to *Write the copy*, is written: its patches are part of the file. Text encoder and VAE are those that are \
connected."""
