"""The demo: the real ComfyUI server, a tiny trained model, and a comparison with and without the node."""
