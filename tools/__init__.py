"""Commands about the project itself; `dev.py` calls them."""
