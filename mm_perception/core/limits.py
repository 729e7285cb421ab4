"""How much one input may cost: sizes are checked against these before memory is asked for.

With the defaults no single message, card, stamp or bag chunk costs more than 500 MB or 2 s on one core. A sensor that
sends more says so in its rig (`max_pixels`, `max_points`, `max_events`). See docs/limits.md.
"""

from __future__ import annotations

MAX_PIXELS = 2**24
"""Of an image: 4096 x 4096."""
MAX_EVENT_PIXELS = 2**22
"""Of an event camera, 2048 x 2048: as far as evt3's addresses go, and a voxel grid takes some 60 bytes per pixel."""
MOST_PIXELS = 2**28
"""The largest `max_pixels` that a rig may set."""
MOST_EVENT_PIXELS = 2**25
"""The largest sensor that an `EventPacket` may have."""
MAX_SCAN_PIXELS = 2**28
"""Scans of a progressive jpeg times its pixels: each scan goes over the whole image once more."""

MAX_POINTS = 4_000_000
"""Of a point cloud."""
MAX_POINT_BYTES = 4096
MAX_POINT_FIELDS = 256

MAX_EVENTS = 2_000_000
"""Of one event packet."""
WORDS_PER_EVENT = 3
"""An evt3 packet may have that many words per allowed event: time, row and column come as words of their own."""

MAX_TRANSFORMS = 4096
"""Of one TFMessage."""
MAX_OBJECTS = 10_000
"""Boxes of one Detection3DArray."""
MAX_SMALL_MESSAGE_BYTES = 4 * 2**20
"""Of a message that carries no measurement (transforms, boxes, CameraInfo, ...): its parts become Python objects."""
MAX_MESSAGE_BYTES = 2**29
"""Of any message."""
MAX_LIST_BYTES = 2**27
"""Of a message of a bag that is one long list of events or points: it is copied as it is read."""

MAX_YAML_BYTES = 256 * 1024
MAX_YAML_DEPTH = 20
MAX_YAML_NODES = 20_000
"""Values of a YAML file, those behind aliases counted each time they are used."""
MAX_NUMBER_CHARS = 64
MAX_LIST_ITEMS = 1024
"""Of a list or mapping in a configuration file."""
MAX_SENSORS = 64
"""Of a rig."""
MAX_JSON_BYTES = 4 * 2**20
"""Of a stamp or another JSON file that this package reads back."""

MAX_CHECKPOINT_OVERHEAD = 16 * 2**20
"""What a weights file may unpack to beyond its own size."""
MAX_PICKLE_BYTES = 4 * 2**20
"""Of the description of tensors inside a .pth file."""
MAX_SAFETENSORS_HEADER = 8 * 2**20
MAX_ONNX_BYTES = 2**31 - 1
"""Of an .onnx file without its external data (protobuf's own limit)."""
MAX_TENSOR_ELEMENTS = 2**30
"""Of a tensor that an ONNX graph names: an input, output, initializer, or a constant shape to fill."""

MAX_REFERENCE_BYTES = 2**33
"""Of an archive of recorded inputs, unpacked: 16 samples of the largest detector take 3 GB."""

MAX_CHUNK_BYTES = 128 * 2**20
"""Of an uncompressed MCAP chunk (recorders write 1 to 16 MB)."""
MAX_METADATA_BYTES, MAX_METADATA_NODES = 2**20, 50_000
"""Of a rosbag2 folder's metadata.yaml."""
MAX_CHUNK_MESSAGES = 500_000
MAX_OPEN_CHUNK_BYTES = 256 * 2**20
"""Of all MCAP chunks that overlap in time, and so are open at once."""
MAX_ROW_BYTES = 256 * 2**20
"""Of a message in a sqlite3 bag."""
MAX_DEFINITION_BYTES = 2**20
"""Of the definition of one message type in a bag."""
MAX_SUMMARY_RECORD_BYTES = 16 * 2**20
"""Of one record of an MCAP summary."""
MAX_UNPACKED_BAG_BYTES = 2**37
"""Of a bag file that is compressed as a whole (.mcap.zstd)."""
MAX_BAG_RATIO = 200
"""What such a file may unpack to, in times of its own size: images and points shrink by far less."""
MIN_FREE_DISK_BYTES = 2**29
"""Left on the disk when a file is unpacked."""
