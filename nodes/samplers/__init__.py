"""What a ComfyUI sampler is: a table, a map of its coefficients, and what is seen of an unknown one."""
