"""One line of text on a node in the page, while another node samples."""

import sys


def show(node: str, text: str) -> None:
    """Show text on a node; without ComfyUI's server (tests, other hosts) or a node, do nothing."""
    module = sys.modules.get("server")  # loaded by ComfyUI; importing it here would start half a server elsewhere
    server = getattr(getattr(module, "PromptServer", None), "instance", None)
    if node and server is not None:
        server.send_progress_text(text, node, server.client_id)
