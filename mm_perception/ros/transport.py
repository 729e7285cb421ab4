"""How much of a topic arrives: a publisher in a process of its own, and this process as its subscriber.

Run as a module, this file is the publisher.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from mm_perception.codec.encode import encode_image, encode_point_cloud
from mm_perception.core.errors import ConfigError, DataError
from mm_perception.core.rig import Reliability
from mm_perception.core.types import PointCloud
from mm_perception.ros.listener import Listener
from mm_perception.ros.messages import RclpyMessages, message_class
from mm_perception.ros.qos import InputPolicy
from mm_perception.ros.subscriptions import AdaptiveSubscription

IMAGE, CLOUD = "sensor_msgs/msg/Image", "sensor_msgs/msg/PointCloud2"
_READY_S = 60.0
_REST_S = 2.0
_BYTES_PER_POINT = 16


@dataclass(frozen=True, slots=True)
class Load:
    """The messages of a measurement: rgb8 images of width x height, or clouds of so many points."""

    width: int = 0
    height: int = 0
    points: int = 0

    @property
    def type_name(self) -> str:
        return CLOUD if self.points else IMAGE

    @property
    def megabytes(self) -> float:
        return (self.points * _BYTES_PER_POINT + self.width * self.height * 3) / 1e6

    def message(self, stamp_ns: int) -> Any:
        """One message; what is in it does not matter."""
        factory = RclpyMessages()
        if not self.points:
            pixels = np.zeros((self.height, self.width, 3), np.uint8)
            return encode_image(factory, pixels, "rgb8", stamp_ns, "camera")
        xyz = np.zeros((self.points, 3), np.float32)
        intensity = np.zeros(self.points, np.float32)
        return encode_point_cloud(factory, PointCloud(xyz, stamp_ns, "lidar", intensity=intensity))


def parse_load(text: str) -> Load:
    """WIDTHxHEIGHT of an rgb8 image, or megabytes of a point cloud, such as 640x480 and 2MB.

    Raises:
        ConfigError: it is neither.
    """
    if match := re.fullmatch(r"(\d+)x(\d+)", text):
        load = Load(width=int(match[1]), height=int(match[2]))
    elif match := re.fullmatch(r"(\d+(?:\.\d+)?)MB", text):
        load = Load(points=round(float(match[1]) * 1e6 / _BYTES_PER_POINT))
    else:
        load = Load()
    if not 0.0 < load.megabytes <= 100.0:
        raise ConfigError(f"size: expected WIDTHxHEIGHT (rgb8 image) or <n>MB (cloud), up to 100 MB, got {text!r}")
    return load


class PublisherProcess:
    """A process that publishes on one topic when it is asked to."""

    def __init__(
        self,
        topic: str,
        load: str,
        *,
        reliability: str = "reliable",
        durability: str = "volatile",
        depth: int = 5,
    ) -> None:
        """Starts it; it is in the same ROS domain.

        Args:
            load: see `parse_load`.
        """
        line = [sys.executable, "-m", __name__, topic, load]
        line += ["--reliability", reliability, "--durability", durability, "--depth", str(depth)]
        self._process = subprocess.Popen(
            line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ.copy()
        )
        self.sent: int | None = None
        """How many messages have been sent, once all are."""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> PublisherProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def publish(self, count: int, rate_hz: float) -> None:
        """Has it wait for a subscription and send; `sent` is set when it is done."""
        self.sent = None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count} {rate_hz}\n")
        self._process.stdin.flush()

    def stop(self) -> None:
        """Ends it, as a publisher that goes away."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.sent = int(line)


@dataclass(frozen=True, slots=True)
class TransportFigures:
    """What became of the messages of one publisher.

    Attributes:
        publisher: its reliability.
        lost: as the middleware counts; None where it does not.
        median_ms: from just before publishing to the callback; None where nothing arrived.
        qos: of the subscription.
    """

    load: str
    megabytes: float
    publisher: str
    sent: int
    arrived: int
    lost: int | None
    median_ms: float | None
    p95_ms: float | None
    qos: str


def measure_transport(
    load: str, publisher: str, *, asked: Reliability = "auto", seconds: float = 20.0, rate_hz: float = 10.0
) -> TransportFigures:
    """Publishes in another process and counts what an input's subscription of the node would get here.

    Args:
        load: see `parse_load`.
        publisher: its reliability, reliable or best_effort.
        asked: as in a rig.

    Raises:
        ConfigError: the load cannot be understood.
        DataError: the two processes did not find each other.
    """
    kind = parse_load(load)
    latencies_ms: list[float] = []
    listener = Listener("mm_perception_transport")
    node, executor = listener.node, listener.executor

    def receive(msg: Any, info: dict[str, Any]) -> None:
        stamp_ns = msg.header.stamp.sec * 1_000_000_000 + msg.header.stamp.nanosec
        latencies_ms.append((time.time_ns() - stamp_ns) * 1e-6)

    topic = f"/mm_perception_transport/p{os.getpid()}"
    subscription = AdaptiveSubscription(node, message_class(kind.type_name), topic, InputPolicy(asked), receive)

    def spin_until(done: Callable[[], bool], timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while not done() and time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.05)
            subscription.update()
        return done()

    try:
        with PublisherProcess(topic, load, reliability=publisher) as process:
            if not spin_until(lambda: bool(subscription.publishers) and subscription.settled, _READY_S):
                raise DataError(f"{topic}: expected the publisher's process within {_READY_S:.0f} s, got none")
            count = max(1, round(seconds * rate_hz))
            process.publish(count, rate_hz)
            spin_until(lambda: process.sent is not None, 3 * seconds + _READY_S)
            spin_until(lambda: subscription.received >= count, _REST_S)
            sent, qos, lost = process.sent or 0, subscription.decided, subscription.lost
    finally:
        subscription.destroy()
        listener.close()
    median, p95 = (float(x) for x in np.percentile(latencies_ms, (50, 95))) if latencies_ms else (None, None)
    return TransportFigures(load, kind.megabytes, publisher, sent, len(latencies_ms), lost, median, p95, qos)


def main(args: list[str] | None = None) -> int:
    """The publisher: sends as often as each line of its input says ("COUNT RATE_HZ"), until the input ends."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("topic")
    parser.add_argument("load")
    parser.add_argument("--reliability", default="reliable", choices=("reliable", "best_effort"))
    parser.add_argument("--durability", default="volatile", choices=("volatile", "transient_local"))
    parser.add_argument("--depth", type=int, default=5)
    given = parser.parse_args(args)
    load = parse_load(given.load)
    rclpy.init()
    node = rclpy.create_node(f"mm_perception_publisher_{os.getpid()}")
    qos = QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=given.depth,
        reliability=ReliabilityPolicy[given.reliability.upper()],
        durability=DurabilityPolicy[given.durability.upper()],
    )
    publisher = node.create_publisher(message_class(load.type_name), given.topic, qos)
    message = load.message(0)
    try:
        for line in sys.stdin:
            count, rate_hz = line.split()
            _send(publisher, message, int(count), float(rate_hz))
            sys.stdout.write(f"{count}\n")
            sys.stdout.flush()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


def _send(publisher: Any, message: Any, count: int, rate_hz: float) -> None:
    """Sends at a steady rate, each message with the time as its stamp."""
    while publisher.get_subscription_count() == 0:
        time.sleep(0.05)
    start_s = time.monotonic()
    for n in range(count):
        time.sleep(max(0.0, start_s + n / rate_hz - time.monotonic()))
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(time.time_ns(), 1_000_000_000)
        publisher.publish(message)


if __name__ == "__main__":
    sys.exit(main())
