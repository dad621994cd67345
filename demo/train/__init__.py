"""Training of the small models in demo/model: `python -m demo.train NAME`, see demo/model/README.md."""
