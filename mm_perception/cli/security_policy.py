"""`mm-perception security-policy`: an SROS2 policy for the fusion node on a rig."""

from __future__ import annotations

import argparse
from pathlib import Path

from mm_perception.cli.outputs import add_overwrite, check_files
from mm_perception.core.files import write_new_file
from mm_perception.core.rig import load_rig
from mm_perception.ros.security import NODE_NAME, security_policy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("--rig", default="default", help="sensors: a name in config/rigs or a path")
    parser.add_argument("--namespace", default="/", metavar="NS", help="in which the node is started (/)")
    parser.add_argument("--node", default=NODE_NAME, metavar="NAME", help=f"its name ({NODE_NAME})")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="policy to write, such as policy.xml")
    add_overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Writes the policy; 0 when it is written.

    Raises:
        ConfigError: the rig cannot be used, a name is none of ROS, or the file exists.
    """
    check_files(args, {"out": "xml"}, (args.rig,))
    write_new_file(args.out, security_policy(load_rig(args.rig), args.namespace, args.node), args.overwrite, "xml")
    enclave = f"/{args.namespace.strip('/')}/{args.node}".replace("//", "/")
    print(f"{args.out}: rig {args.rig}, enclave {enclave}")
    print(f"sign it: ros2 security create_permission KEYSTORE {enclave} {args.out}")
    return 0
