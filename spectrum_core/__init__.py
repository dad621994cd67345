"""The mathematics of Spectrum: forecast, history, schedule, trace. Knows torch and numpy, not ComfyUI."""
