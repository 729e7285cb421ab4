"""`mm-perception convert nuscenes|kitti|pandaset|rgbt SRC OUT.mcap`: recorded data to a bag."""

from __future__ import annotations

import argparse
from pathlib import Path

from mm_perception.bags.writer import check_new_bag
from mm_perception.cli.outputs import add_overwrite
from mm_perception.convert.kitti import convert_kitti
from mm_perception.convert.nuscenes import convert_nuscenes
from mm_perception.convert.pandaset import convert_pandaset
from mm_perception.convert.rgbt import convert_rgbt
from mm_perception.core.errors import ConfigError
from mm_perception.core.files import check_outputs

CONVERTERS = {"kitti": convert_kitti, "pandaset": convert_pandaset, "rgbt": convert_rgbt}
KINDS = ("kitti", "nuscenes", "pandaset", "rgbt")
PLAY_WITH = {
    "nuscenes": "RIG=nuscenes MODEL=cmx-b0-lidar-untrained",
    "kitti": "RIG=kitti MODEL=cmx-b0-lidar-untrained",
    "pandaset": "RIG=pandaset MODEL=cmx-b0-lidar-untrained",
    "rgbt": "RIG=rgbt MODEL=cmx-b0-thermal-untrained",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("kind", choices=KINDS, help="data set, or rgbt for pairs of RGB and thermal images")
    parser.add_argument("source", type=Path, metavar="SRC", help="folder of the recorded data, as it was downloaded")
    parser.add_argument("out", type=Path, metavar="OUT.mcap", help="bag to write")
    parser.add_argument(
        "--scene", metavar="NAME", help="nuscenes: which scene, e.g. scene-0061 (default: the only one)"
    )
    add_overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Converts and says how to play the bag."""
    check_outputs({"OUT": args.out}, (args.source,))
    check_new_bag(args.out, args.overwrite)
    notes: list[str] = []
    if args.kind == "nuscenes":
        frames = convert_nuscenes(args.source, args.out, args.overwrite, scene=args.scene, notes=notes)
    elif args.scene is not None:
        raise ConfigError(f"--scene: names a scene of nuScenes, leave it out with {args.kind}")
    else:
        frames = CONVERTERS[args.kind](args.source, args.out, args.overwrite)
    size_mb = args.out.stat().st_size * 1e-6 if args.out.is_file() else 0.0
    print(f"{args.out}: {frames} reference frame(s), {size_mb:.1f} MB")
    for note in notes:
        print(note)
    print(f"play it: make demo BAG={args.out} {PLAY_WITH[args.kind]}")
    return 0
