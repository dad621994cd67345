"""Train one of the small models: see the package and demo/model/README.md."""

import argparse
import logging

from demo import inprocess

inprocess.boot()

from .kinds import KINDS  # noqa: E402  (only after boot)
from .loop import Training  # noqa: E402


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m demo.train", description=__doc__)
    parser.add_argument("name", choices=KINDS)
    parser.add_argument("--minutes", type=float, default=60, help="CPU time in all, resumed runs included")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in .dev/train/NAME")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    training = Training(KINDS[arguments.name], inprocess.ROOT / ".dev" / "train" / arguments.name, arguments.minutes)
    if arguments.resume:
        training.resume()
    training.run()


if __name__ == "__main__":
    main()
