"""`mm-perception convert nuscenes|kitti|pandaset|rgbt|rgbd SRC OUT.mcap`: recorded data to a bag."""

from __future__ import annotations

import argparse
from pathlib import Path

from mm_perception.bags.writer import check_new_bag
from mm_perception.cli import numbers
from mm_perception.cli.outputs import add_overwrite
from mm_perception.convert.kitti import convert_kitti
from mm_perception.convert.nuscenes import convert_nuscenes
from mm_perception.convert.pandaset import convert_pandaset
from mm_perception.convert.rgbd import MILLIMETRE, ROTATIONS, convert_rgbd
from mm_perception.convert.rgbt import convert_rgbt
from mm_perception.core.errors import ConfigError
from mm_perception.core.files import check_outputs

CONVERTERS = {"kitti": convert_kitti, "pandaset": convert_pandaset, "rgbt": convert_rgbt}
KINDS = ("kitti", "nuscenes", "pandaset", "rgbt", "rgbd")
PLAY_WITH = {
    "nuscenes": "RIG=nuscenes MODEL=cmx-b0-lidar-untrained",
    "kitti": "RIG=kitti MODEL=cmx-b0-lidar-untrained",
    "pandaset": "RIG=pandaset MODEL=cmx-b0-lidar-untrained",
    "rgbt": "RIG=rgbt MODEL=cmx-b0-thermal-untrained",
    "rgbd": "RIG=rgbd MODEL=cmx-tiny-rgb-depth",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("kind", choices=KINDS, help="data set; rgbt, rgbd: pairs of images")
    parser.add_argument("source", type=Path, metavar="SRC", help="folder of the recorded data, as it was downloaded")
    parser.add_argument("out", type=Path, metavar="OUT.mcap", help="bag to write")
    parser.add_argument(
        "--scene", metavar="NAME", help="nuscenes: which scene, e.g. scene-0061 (default: the only one)"
    )
    parser.add_argument(
        "--depth-unit", type=numbers.real(1e-7, 10.0), metavar="M", help="rgbd: metres per number (default 0.001)"
    )
    parser.add_argument(
        "--depth-form", choices=sorted(ROTATIONS), help="rgbd: rotated: by 3 bits, as SUN RGB-D does (default: plain)"
    )
    add_overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Converts and says how to play the bag."""
    check_outputs({"OUT": args.out}, (args.source,))
    check_new_bag(args.out, args.overwrite)
    if args.kind != "rgbd" and (args.depth_unit or args.depth_form):
        raise ConfigError(f"--depth-unit, --depth-form: are of rgbd, leave them out with {args.kind}")
    if args.kind != "nuscenes" and args.scene is not None:
        raise ConfigError(f"--scene: names a scene of nuScenes, leave it out with {args.kind}")
    notes: list[str] = []
    if args.kind == "nuscenes":
        frames = convert_nuscenes(args.source, args.out, args.overwrite, scene=args.scene, notes=notes)
    elif args.kind == "rgbd":
        unit_m, form = args.depth_unit or MILLIMETRE, args.depth_form or "plain"
        frames = convert_rgbd(args.source, args.out, args.overwrite, unit_m, form)
    else:
        frames = CONVERTERS[args.kind](args.source, args.out, args.overwrite)
    size_mb = args.out.stat().st_size * 1e-6 if args.out.is_file() else 0.0
    print(f"{args.out}: {frames} reference frame(s), {size_mb:.1f} MB")
    for note in notes:
        print(note)
    print(f"play it: make demo BAG={args.out} {PLAY_WITH[args.kind]}")
    return 0
