"""KITTI as it is downloaded: raw drives, odometry sequences (SemanticKITTI's labels with them), and short extracts.

A. Geiger, P. Lenz, C. Stiller, R. Urtasun, Vision meets Robotics: The KITTI Dataset, IJRR 2013. J. Behley et al.,
SemanticKITTI: A Dataset for Semantic Scene Understanding of LiDAR Sequences, ICCV 2019.

    raw        DATE/DATE_drive_0001_sync/{image_02,velodyne_points}/{data/0000000000.png|.bin,timestamps.txt} and
               DATE/{calib_cam_to_cam.txt,calib_velo_to_cam.txt}
    odometry   sequences/00/{image_2/000000.png,velodyne/000000.bin,labels/000000.label,calib.txt,times.txt}
    extract    {image_02/0000000000.png,velodyne_points/0000000000.bin,calib.txt} with the object set's matrices
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import DataError
from mm_perception.datasets.files import FIRST_NS, read_bytes, read_points, require_folder
from mm_perception.geometry.transforms import RigidTransform

PERIOD_NS = 100_000_000
LIDAR, FIRST_CAMERA = "velodyne", "cam_00"
CAMERAS = ("cam_00", "cam_01", "cam_02", "cam_03")
_STAMP = re.compile(r"(\d{4})-(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?")
_CALIBRATIONS = ("calib_cam_to_cam.txt", "calib_velo_to_cam.txt")
_WANTED = (
    "expected a raw drive (image_02/data, velodyne_points/data; calib_cam_to_cam.txt and calib_velo_to_cam.txt in its "
    "parent folder), an odometry sequence (image_2, velodyne, calib.txt, times.txt), or image_02, velodyne_points and "
    "calib.txt"
)


@dataclass(frozen=True, slots=True, eq=False)
class KittiDrive:
    """The files of one drive.

    Attributes:
        images: by camera ("cam_02"), (stamp_ns, file) in order.
        sweeps: (stamp_ns, file) in order.
        labels: point labels by the stem of their sweep's file.
        projections: (3, 4) of each rectified camera [px], the last column K times its baseline to cam_00.
        camera_from_lidar: cam_00, rectified, from the LiDAR; None without cameras.
    """

    root: Path
    images: dict[str, list[tuple[int, Path]]]
    sweeps: list[tuple[int, Path]]
    projections: dict[str, NDArray[np.float64]]
    camera_from_lidar: RigidTransform | None
    labels: dict[str, Path] = field(default_factory=dict)

    def camera_transform(self, camera: str) -> RigidTransform:
        """A rectified camera from the LiDAR."""
        assert self.camera_from_lidar is not None
        projection = self.projections[camera]
        baseline = np.linalg.inv(projection[:, :3]) @ projection[:, 3]
        return RigidTransform(camera, FIRST_CAMERA, np.eye(3), baseline) @ self.camera_from_lidar

    def intrinsics(self, camera: str) -> NDArray[np.float64]:
        """(3, 3) of a rectified camera [px]."""
        matrix: NDArray[np.float64] = np.array(self.projections[camera][:, :3])
        matrix[2] = (0, 0, 1)
        return matrix


def open_kitti(source: Path) -> KittiDrive:
    """Finds a drive's files.

    Raises:
        DataError: there is none, there are several, files are missing, or the calibration lacks a matrix.
    """
    root = _one_drive(require_folder(source))
    folders = _folders(root)
    images = {name: _stamped(folder, (".png", ".jpg", ".jpeg"), root) for name, folder in folders.items()}
    images = {name: frames for name, frames in images.items() if frames}
    sweep_folder = next((root / n for n in ("velodyne_points", "velodyne") if (root / n).is_dir()), None)
    if sweep_folder is None or (not images and sweep_folder.name != "velodyne"):  # SemanticKITTI needs no images
        raise DataError(f"{source}: {_WANTED}; found {_there(root)}")
    sweeps = _stamped(sweep_folder, (".bin", ".txt"), root)
    if not sweeps:
        raise DataError(f"{sweep_folder}: no sweeps (.bin, or .txt of an unsynchronised drive)")
    _check_pairs(root, images, sweeps, strict=not (sweep_folder / "data").is_dir())
    projections, camera_from_lidar = _calibration(root, list(images)) if images else ({}, None)
    labels = {path.stem: path for path in sorted((root / "labels").glob("*.label"))}
    return KittiDrive(root, images, sweeps, projections, camera_from_lidar, labels)


def read_sweep(path: Path) -> NDArray[np.float32]:
    """(N, 4) float32: x forward, y left, z up [m], reflectance 0..1; of a .bin, or a .txt with four columns."""
    if path.suffix.lower() != ".txt":
        return read_points(path, 4)
    try:
        return np.loadtxt(path, np.float32, ndmin=2).reshape(-1, 4)
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: expected four numbers a line ({error})") from error


def read_point_labels(path: Path, count: int) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Class and instance of each point of a SemanticKITTI .label file, (N,) each.

    Raises:
        DataError: the file holds labels of another number of points.
    """
    data = read_bytes(path)
    if data.size != 4 * count:
        raise DataError(f"{path}: {data.size} bytes, expected 4 for each of the sweep's {count} points")
    both = data.view("<u4")
    return (both & 0xFFFF).astype(np.uint16), (both >> 16).astype(np.uint16)


def _one_drive(source: Path) -> Path:
    """The folder of the drive: the source, or the only one in it."""
    if _folders(source) or (source / "velodyne_points").is_dir() or (source / "velodyne").is_dir():
        return source
    for pattern in ("*_drive_*", "*/*_drive_*", "sequences/*", "dataset/sequences/*"):
        found = sorted(p for p in source.glob(pattern) if p.is_dir() and (_folders(p) or (p / "velodyne").is_dir()))
        if len(found) > 1:
            shown = ", ".join(str(p.relative_to(source)) for p in found[:6])
            raise DataError(f"{source}: {len(found)} drives ({shown}, …): name one of them as SRC")
        if found:
            return found[0]
    raise DataError(f"{source}: {_WANTED}; found {_there(source)}")


def _folders(root: Path) -> dict[str, Path]:
    """Folders of images by camera."""
    out = {}
    for i, camera in enumerate(CAMERAS):
        folder = next((root / n for n in (f"image_{i:02d}", f"image_{i}") if (root / n).is_dir()), None)
        if folder is not None:
            out[camera] = folder
    return out


def _stamped(folder: Path, suffixes: tuple[str, ...], root: Path) -> list[tuple[int, Path]]:
    """The files of a folder with their stamps, in order."""
    data = folder / "data" if (folder / "data").is_dir() else folder
    files = sorted(p for p in data.iterdir() if p.suffix.lower() in suffixes and p.name != "timestamps.txt")
    numbers = [(_number(path), path) for path in files if not path.stem.startswith("timestamps")]
    own, shared = folder / "timestamps.txt", root / "times.txt"
    if own.is_file():
        stamps = [_wall_clock_ns(line, own) for line in _lines(own)]
        source: Path | None = own
    elif shared.is_file():
        stamps = [FIRST_NS + round(_seconds(line, shared) * 1e9) for line in _lines(shared)]
        source = shared
    else:
        return [(FIRST_NS + number * PERIOD_NS, path) for number, path in numbers]
    beyond = [path.name for number, path in numbers if number >= len(stamps)]
    if beyond:
        raise DataError(f"{source}: {len(stamps)} stamps, but there is a file {beyond[0]} in {data}")
    return [(stamps[number], path) for number, path in numbers]


def _check_pairs(
    root: Path, images: dict[str, list[tuple[int, Path]]], sweeps: list[tuple[int, Path]], strict: bool
) -> None:
    """Of raw drives some sweeps are missing as published; elsewhere a file without partner is a fault."""
    if not images:
        return
    first = next(iter(images.values()))
    single = sorted({path.stem for _, path in first} ^ {path.stem for _, path in sweeps})
    if single and strict:
        raise DataError(f"{root}: image and sweep do not pair for {', '.join(single[:5])}")


def _number(path: Path) -> int:
    if not path.stem.isdigit():
        raise DataError(f"{path}: expected a number as name")
    return int(path.stem)


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]


def _wall_clock_ns(line: str, path: Path) -> int:
    match = _STAMP.match(line.strip())
    if not match:
        raise DataError(f"{path}: expected stamps such as 2011-09-26 13:02:25.964389445, got {line.strip()[:40]!r}")
    *parts, fraction = match.groups()
    try:
        year, month, day, hour, minute, second = map(int, parts)
        moment = datetime.datetime(year, month, day, hour, minute, second, tzinfo=datetime.timezone.utc)
    except ValueError as error:
        raise DataError(f"{path}: no such time: {line.strip()[:40]!r}") from error
    return int(moment.timestamp()) * 1_000_000_000 + int((fraction or "0").ljust(9, "0"))


def _seconds(line: str, path: Path) -> float:
    try:
        value = float(line.split()[0])
    except ValueError as error:
        raise DataError(f"{path}: expected seconds, got {line.strip()[:40]!r}") from error
    if not 0 <= value < 1e7:
        raise DataError(f"{path}: expected seconds since the start, got {value}")
    return value


def _calibration(root: Path, cameras: list[str]) -> tuple[dict[str, NDArray[np.float64]], RigidTransform]:
    for folder in (root, root.parent):
        if (folder / _CALIBRATIONS[0]).is_file():
            return _raw_calibration(folder, cameras)
    if not (root / "calib.txt").is_file():
        raise DataError(
            f"{root}: no calibration: expected {' and '.join(_CALIBRATIONS)} here or in {root.parent} (a download of "
            "its own, DATE_calib.zip), or calib.txt here"
        )
    path = root / "calib.txt"
    values = _matrices(path)
    projections = {camera: _take(values, f"P{camera[-1]}", (3, 4), path) for camera in cameras}
    if "Tr" in values:  # odometry: into the rectified camera
        tr = _take(values, "Tr", (3, 4), path)
        return projections, RigidTransform(FIRST_CAMERA, LIDAR, _orthonormal(tr[:, :3]), tr[:, 3])
    missing = [name for name in ("R0_rect", "Tr_velo_to_cam") if name not in values]
    if missing:
        raise DataError(
            f"{path}: no {', '.join(missing)} (nor Tr): the file that comes with the images lacks it, take that of "
            "data_odometry_calib.zip"
        )
    tr = _take(values, "Tr_velo_to_cam", (3, 4), path)
    return projections, _rectified(_take(values, "R0_rect", (3, 3), path), tr[:, :3], tr[:, 3])


def _raw_calibration(folder: Path, cameras: list[str]) -> tuple[dict[str, NDArray[np.float64]], RigidTransform]:
    cam_path, velo_path = (folder / name for name in _CALIBRATIONS)
    cam, velo = _matrices(cam_path), _matrices(velo_path)
    projections = {camera: _take(cam, f"P_rect_{camera[-2:]}", (3, 4), cam_path) for camera in cameras}
    rectify = _take(cam, "R_rect_00", (3, 3), cam_path)
    rotation, translation = _take(velo, "R", (3, 3), velo_path), _take(velo, "T", (3,), velo_path)
    return projections, _rectified(rectify, rotation, translation)


def _rectified(
    rectify: NDArray[np.float64], rotation: NDArray[np.float64], translation: NDArray[np.float64]
) -> RigidTransform:
    raw_from_lidar = RigidTransform("cam_raw", LIDAR, _orthonormal(rotation), translation)
    return RigidTransform(FIRST_CAMERA, "cam_raw", _orthonormal(rectify), np.zeros(3)) @ raw_from_lidar


def _matrices(path: Path) -> dict[str, list[str]]:
    """The words behind each name of a calibration file."""
    if not path.is_file():
        raise DataError(f"{path}: does not exist; it belongs to the calibration of the drive")
    pairs = (line.partition(":") for line in _lines(path))
    return {name.strip(): words.split() for name, _, words in pairs}


def _take(values: dict[str, list[str]], name: str, shape: tuple[int, ...], path: Path) -> NDArray[np.float64]:
    if name not in values:
        raise DataError(f"{path}: no {name} (there are {', '.join(sorted(values)[:12]) or 'none'})")
    try:
        matrix = np.array(values[name], np.float64).reshape(shape)
    except ValueError as error:
        raise DataError(f"{path}: {name} is no {shape} matrix") from error
    if not np.isfinite(matrix).all():
        raise DataError(f"{path}: {name} has values that are not finite")
    return matrix


def _orthonormal(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest rotation: the file has seven digits."""
    u, _, vt = np.linalg.svd(matrix)
    return np.asarray(u @ vt)


def _there(folder: Path) -> str:
    names = sorted(p.name + ("/" if p.is_dir() else "") for p in folder.iterdir())
    return (", ".join(names[:12]) + (", …" if len(names) > 12 else "")) or "nothing"
