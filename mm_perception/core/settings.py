"""What can be set about the fusion node and the replay; the node's ROS parameters are made of these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mm_perception.core.config import setting
from mm_perception.core.frames import frame_name

OFF = ("", "none")
"""In the place of a model card: that task is not done."""


@dataclass(frozen=True, slots=True)
class FusionSettings:
    """Settings that are no property of the vehicle (see `core.rig`) nor of the weights (see model cards)."""

    rig: str = setting("demo", "sensors: name of a file in config/rigs, or a path")
    model: str = setting(
        "cmx-tiny-rgb-thermal", "segmentation: model card, a name in config/models or a path; none: off"
    )
    detector: str = setting("none", "3D detection: model card, a name in config/models or a path; none: off")
    engine: Literal["auto", "tensorrt", "torch", "onnxruntime", "openvino"] = setting(
        "auto", "inference engine; auto: the fastest that runs here"
    )
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16", "int8", "mixed"] = setting(
        "auto", "of TensorRT engines; auto: fp16; where the self-test misses its tolerance, the next safer one"
    )
    stale_engines: Literal["rebuild", "refuse"] = setting(
        "rebuild", "what happens to a kept TensorRT engine that is not what is asked for; refuse: named, and not used"
    )
    build_only: bool = setting(False, "build the engines that are missing, and end")
    threads: int = setting(0, "CPU threads of the engine; 0: all cores", minimum=0, maximum=256)
    x_sensor: str = setting("", "sensor for the X input; empty: the rig's first of the model's modality")
    output_frame: str = setting("", "frame of the boxes, by TF at the bundle's stamp; empty: the LiDAR's")
    sync_policy: Literal["nearest", "message_filters"] = setting(
        "nearest", "nearest: this package's synchronizer; message_filters: ROS's ApproximateTimeSynchronizer"
    )
    max_wait_ms: float = setting(
        -1.0,
        "how long a bundle may wait for late sensors; negative: as the rig says",
        minimum=-1.0,
        maximum=6e4,
    )
    queue_depth: int = setting(
        1, "bundles that may wait for the engine; beyond that the oldest is dropped", minimum=1, maximum=1000
    )
    overlay_alpha: float = setting(
        0.5, "opacity of the classes in the overlay", minimum=0.0, maximum=1.0, read_only=False
    )
    diagnostics_period_s: float = setting(1.0, "time between diagnostics", minimum=0.05, maximum=2.0)
    stale_after_s: float = setting(
        2.0, "a sensor that was silent for longer is reported as stale", minimum=0.1, maximum=600.0
    )
    deadline_ms: float = setting(
        500.0,
        "how old a result may be when it is published: WARN beyond it (95 % of 2.5 s), ERROR after 5 s of that",
        minimum=1.0,
        maximum=6e4,
    )
    autostart: bool = setting(True, "configure and activate the node when it starts; false: a lifecycle manager does")

    def __post_init__(self) -> None:
        object.__setattr__(self, "output_frame", frame_name(self.output_frame))
