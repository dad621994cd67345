"""Train one of the small models: see the package and demo/model/README.md."""

import argparse
import logging
from dataclasses import replace
from pathlib import Path

import torch

from demo import inprocess

inprocess.boot()

from .data import Clips, Composites  # noqa: E402  (only after boot)
from .kinds import KINDS  # noqa: E402
from .loop import Training  # noqa: E402


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m demo.train", description=__doc__)
    parser.add_argument("name", choices=KINDS)
    parser.add_argument("--minutes", type=float, default=60, help="CPU time in all, resumed runs included")
    parser.add_argument("--threads", type=int, default=1, help="of torch; CPU time is that of all of them")
    parser.add_argument("--sizes", type=int, nargs=2, default=(68, 88), help="smallest and largest emoji, in pixels")
    parser.add_argument("--grid", type=int, default=1, help="their places are multiples of this many pixels")
    parser.add_argument("--start", type=Path, help="begin with the weights of this file")
    parser.add_argument("--rate", type=float, help="learning rate, instead of the kind's")
    parser.add_argument("--quantise", action="store_true", help="train the weights as they are stored, in 4 bits")
    parser.add_argument("--float32", action="store_true", help="for processors that are slow in bfloat16")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in .dev/train/NAME")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    torch.set_num_threads(arguments.threads)
    folder = inprocess.ROOT / ".dev" / "train" / arguments.name
    kind = KINDS[arguments.name]
    data = (Clips if kind.clips else Composites)(tuple(arguments.sizes), arguments.grid)
    if arguments.rate:
        kind = replace(kind, rate=arguments.rate)
    training = Training(kind, folder, arguments.minutes, data, arguments.quantise, not arguments.float32)
    if arguments.start:
        training.start_from(arguments.start)
    if arguments.resume:
        training.resume()
    training.run()


if __name__ == "__main__":
    main()
