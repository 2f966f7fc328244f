"""Shows what the synthetic data look like.

python -m datasets.synthetic OUT.png [--columns=8] [--picture-side=128] [--color-levels=256]
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from datasets.synthetic.gallery import draw_gallery
from datasets.synthetic.pictures import IMAGE_SIDE
from posepile.visualization.contact_sheet import write_png


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m datasets.synthetic", description="Draws examples of the synthetic data sets."
    )
    parser.add_argument("output", type=pathlib.Path, help="the PNG file to write")
    parser.add_argument("--columns", type=_whole_number(1, 25), default=8, help="pictures per data set, 1 to 25")
    parser.add_argument(
        "--picture-side", type=_whole_number(64, 512), default=IMAGE_SIDE, help="px of a picture, 64 to 512"
    )
    parser.add_argument(
        "--color-levels",
        type=_whole_number(2, 256),
        default=256,
        help="per colour channel, 2 to 256; fewer make a smaller file",
    )
    options = parser.parse_args(arguments)
    if options.output.suffix.lower() != ".png":
        parser.error(f"the output {options.output} must be named *.png, as it is a PNG file")
    write_png(options.output, draw_gallery(options.columns, options.picture_side, color_levels=options.color_levels))
    print(f"wrote {options.output}")
    return 0


def _whole_number(low, high):
    def parse(text):
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return parse


if __name__ == "__main__":
    sys.exit(main())
