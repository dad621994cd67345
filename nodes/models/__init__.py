"""What a diffusion model is to ComfyUI: where its head begins, and whose rows a call holds."""
