"""Where the files that ship with the package lie."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

from mm_perception.core.errors import ConfigError


def config_dir() -> Path:
    """The folder `config/` (fusion.yaml, models/, rigs/, rviz/).

    Looks in `$MM_PERCEPTION_CONFIG`, beside the sources (a checkout or an editable install), in each
    prefix of `$AMENT_PREFIX_PATH`, and in the Python prefix.

    Raises:
        ConfigError: none of these exists; the message lists them.
    """
    candidates = [Path(__file__).resolve().parents[2] / "config"]
    if "MM_PERCEPTION_CONFIG" in os.environ:
        candidates = [Path(os.environ["MM_PERCEPTION_CONFIG"])]
    else:
        prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
        prefixes.append(sysconfig.get_paths()["data"])
        candidates += [Path(p) / "share" / "mm_perception" / "config" for p in prefixes]
    for candidate in candidates:
        if (candidate / "fusion.yaml").is_file():
            return candidate
    raise ConfigError("the package's config folder was not found in: " + ", ".join(map(str, candidates)))


def find_config(kind: str, name_or_path: str) -> Path:
    """Resolves a shipped file by name ("demo" in `config/<kind>/demo.yaml`) or any file by its path.

    Raises:
        ConfigError: neither exists; the message lists the names that do.
    """
    folder = config_dir() / kind
    try:
        path, named = Path(name_or_path).expanduser(), folder / f"{name_or_path}.yaml"
        if path.is_file():
            return path
        if os.sep not in name_or_path and named.is_file():
            return named
    except (OSError, ValueError, RuntimeError) as error:  # too long, a zero byte, the home of nobody
        raise ConfigError(f"{kind}: {name_or_path[:80]!r} is no name of a file ({error})") from error
    known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml"))) or "none"
    raise ConfigError(f"{kind}: {name_or_path!r} is neither a file nor a name in {folder} (known: {known})")
