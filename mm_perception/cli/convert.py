"""`mm-perception convert nuscenes|kitti|rgbt SRC OUT.mcap`: recorded data to a bag."""

from __future__ import annotations

import argparse
from pathlib import Path

from mm_perception.bags.writer import check_new_bag
from mm_perception.cli.outputs import add_overwrite
from mm_perception.convert.kitti import convert_kitti
from mm_perception.convert.nuscenes import convert_nuscenes
from mm_perception.convert.rgbt import convert_rgbt
from mm_perception.core.files import check_outputs

CONVERTERS = {"nuscenes": convert_nuscenes, "kitti": convert_kitti, "rgbt": convert_rgbt}
PLAY_WITH = {
    "nuscenes": "RIG=nuscenes MODEL=cmx-b0-lidar-untrained",
    "kitti": "RIG=kitti MODEL=cmx-b0-lidar-untrained",
    "rgbt": "RIG=rgbt MODEL=cmx-b0-thermal-untrained",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("kind", choices=sorted(CONVERTERS), help="layout of the source")
    parser.add_argument("source", type=Path, metavar="SRC", help="folder of the recorded data")
    parser.add_argument("out", type=Path, metavar="OUT.mcap", help="bag to write")
    add_overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Converts and says how to play the bag."""
    check_outputs({"OUT": args.out}, (args.source,))
    check_new_bag(args.out, args.overwrite)
    frames = CONVERTERS[args.kind](args.source, args.out, args.overwrite)
    size_mb = args.out.stat().st_size * 1e-6 if args.out.is_file() else 0.0
    print(f"{args.out}: {frames} reference frame(s), {size_mb:.1f} MB")
    print(f"play it: make demo BAG={args.out} {PLAY_WITH[args.kind]}")
    return 0
