"""What `dev.py serve` runs: the server with the pack, the demo's node and its models, until Ctrl-C."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
from pathlib import Path

from .comfy_server import ROOT, ComfyServer, ServerError

OPEN_DEMO = "/?template=spectrum_demo&source=spectrum-demo-emoji"
"""Lets the page open a template of the demo's own node pack, demo/emoji_nodes."""

log = logging.getLogger("serve")


def main() -> int:
    """Start the server, say where it is, and stay until it ends or is interrupted."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an ordinary exception, so that the server ends too
    parser = argparse.ArgumentParser(prog="dev.py serve", description=__doc__)
    parser.add_argument("--port", type=int, default=8188, help="0 picks a free one (default: 8188)")
    parser.add_argument("--gpu", action="store_true", help="let ComfyUI choose its device instead of the CPU")
    parser.add_argument("--base", type=Path, default=ROOT / ".dev" / "serve", help="folder for models and output")
    arguments = parser.parse_args()
    log.info("Starting ComfyUI ...")
    try:
        with ComfyServer(arguments.base, port=arguments.port, cpu=not arguments.gpu) as server:
            log.info("ComfyUI with Spectrum Accelerate and its demo: %s%s", server.url, OPEN_DEMO)
            log.info("Ctrl-C ends it. Log: %s", server.log_file)
            while server.running:
                time.sleep(0.5)
        log.info("The server has ended; its log: %s", server.log_file)
    except ServerError as error:
        log.error("%s", error)
        return 1
    except KeyboardInterrupt:
        log.info("Stopped.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
