"""Makes the corpus of what was found once: `python test/fuzz/make_corpus.py`. Folders are targets, files their inputs.

An input that a fuzzer finds goes into its target's folder as it is.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from random import Random

import numpy as np

from mm_perception.bags.typestore import typestore
from mm_perception.fuzz import bag_targets, file_targets, message_targets

CORPUS = Path(__file__).with_name("corpus")


def keep(target: str, name: str, data: bytes) -> None:
    path = CORPUS / target / f"{name}.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def message(seed, **fields) -> bytes:
    for name, value in fields.items():
        setattr(seed, name, value)
    return bytes(typestore().serialize_cdr(seed, seed.__msgtype__))


def compressed(change) -> bytes:
    type_name, cdr = message_targets._compressed()[0]
    seed = typestore().deserialize_cdr(cdr, type_name)
    return message(seed, data=np.frombuffer(change(bytearray(seed.data.tobytes())), np.uint8))


def of_size(data: bytearray, size: bytes) -> bytes:
    at = data.find(b"\xff\xc0")
    data[at + 5 : at + 9] = size
    return bytes(data)


def main() -> None:
    huge = 4_000_000_000
    keep("image", "absurd-size", message(message_targets._images()[0], width=2**31, height=2**31, step=2**32 - 1))
    keep("compressed", "jpeg-65535x65535", compressed(lambda data: of_size(data, b"\xff\xff\xff\xff")))
    keep("compressed", "jpeg-4096x4097", compressed(lambda data: of_size(data, b"\x10\x01\x10\x00")))
    keep("camera_info", "65535x32000", message(message_targets._camera_infos()[0], width=65535, height=32000))
    for name, fields in {
        "point-step-2-31": {"point_step": 2**31}, "point-step-0": {"point_step": 0, "row_step": 0},
        "many-points": {"width": 2**32 - 1, "height": 2**32 - 1}, "no-fields": {"fields": []},
    }.items():  # fmt: skip
        keep("cloud", name, message(message_targets._clouds()[0], **fields))
    words = np.tile(np.array([0x3000, 0x4FFF], "<u2"), 20_000)
    vectors = np.concatenate([np.array([0x8000, 0x6000, 0x0001], "<u2"), words]).view(np.uint8)
    keep("events", "sensor-4e9", message(message_targets._events()[0], width=huge, height=huge))
    keep("events", "vectors", message(message_targets._events()[0], events=vectors))
    laughs = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))]
    keep("rig", "aliases", "\n".join(laughs).encode())
    keep("rig", "alias-of-itself", b"sensors: &a [*a]")
    keep("rig", "depth", b"a: " + b"[" * 5000)
    keep("rig", "digits", b"max_wait_ms: " + b"9" * 5000)
    keep("rig", "date", b"name: 2026-13-45")
    keep("rig", "float-tag", b"max_wait_ms: !!float abc")
    keep("rig", "not-finite", b"reference: a\nsensors: [{name: a, kind: rgb, offset_ms: .nan}]")
    card = file_targets._texts("models")[0]
    keep("card", "long-seed", card.replace("random:", "random:" + "9" * 5000).encode())
    keep("card", "many-classes", card.replace("classes:", f"classes: [{', '.join(map(str, range(900)))}]\nx:").encode())
    keep("stamp", "depth", b"[" * 100_000)
    keep(
        "stamp",
        "wrong-types",
        json.dumps({**file_targets._ENGINE_STAMP, "key": {**file_targets._KEY, "build": []}}).encode(),
    )
    keep("onnx", "location-is-no-text", file_targets._onnx().replace(b"w.bin", b"\xff.bin"))
    keep("onnx", "location-outside", file_targets._onnx().replace(b"w.bin", b"../.."))
    keep("safetensors", "header-of-2-63", (2**63).to_bytes(8, "little") + file_targets._weights()["safetensors"][8:])
    import torch

    file = io.BytesIO()
    torch.save({"a": torch.zeros(1).expand(2**40)}, file)
    keep("pth", "repeated", file.getvalue())
    bag = bag_targets._bag("bag.mcap")
    keep("mcap", "chunk-flipped", bytes([*bag[:300], bag[300] ^ 1, *bag[301:]]))
    keep("mcap", "summary-flipped", bytes([*bag[:-400], bag[-400] ^ 1, *bag[-399:]]))
    keep("mcap", "cut", bag[: len(bag) // 2])
    keep("metadata", "depth", b"a: " + b"[" * 5000)
    for target in file_targets.file_targets()[:3]:
        keep(target.name, "one-of-many", target.make(Random(7)))


if __name__ == "__main__":
    main()
