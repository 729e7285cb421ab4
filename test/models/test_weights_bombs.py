"""Weights files that name more than they hold, or hold more than weights."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from mm_perception.core.errors import ModelError, TrainingError  # noqa: E402
from mm_perception.fuzz.cost import measured  # noqa: E402
from mm_perception.models.checkpoint import read_state_dict  # noqa: E402
from mm_perception.training.checkpoint import read_checkpoint  # noqa: E402


def saved(content, **options) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def repacked(change=lambda name, data: data, packing=zipfile.ZIP_STORED) -> bytes:
    target = io.BytesIO()
    source = io.BytesIO(saved({"a": torch.zeros(4)}))
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(target, "w", packing) as after:
        for entry in before.infolist():
            after.writestr(entry.filename, change(entry.filename, before.read(entry)))
    return target.getvalue()


def described(data: bytes):
    return repacked(lambda name, old: data if name.endswith("data.pkl") else old)


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit",)


STATE = {"a": torch.zeros(4)}
WHOLE, OLD = saved(STATE), saved(STATE, _use_new_zipfile_serialization=False)
FILES = {
    "repeated": saved({"a": torch.zeros(1).expand(2**40)}),
    "repeated, within": saved({"state_dict": {"a": torch.zeros(1).expand(10**6, 10**6)}}),
    "meta": saved({"a": torch.zeros(2**40, device="meta")}),
    "sparse": saved({"a": torch.sparse_coo_tensor(torch.zeros(2, 1, dtype=torch.long), [1.0], (10**6, 10**6))}),
    "compressed": repacked(lambda n, d: bytes(200_000_000) if n.endswith("data/0") else d, zipfile.ZIP_DEFLATED),
    "long description": described(b"\x80\x02" + b"]0" * 3_000_000 + b"N."),
    "deep description": described(b"\x80\x02" + b"(" * 100_000 + b"N" + b"t" * 100_000 + b"."),
    "large object": described(pickle.dumps({"a": bytearray(10)}, 2).replace(b"U\n", b"U\n")),
    "digits": described(b"\x80\x02I" + b"9" * 10_000 + b"\n."),
    "code": described(pickle.dumps({"a": Evil()}, 2)),
    "no tensors": saved({"a": 1}),
    "numbers as keys": saved({1: 2}),
    "a list": saved([torch.zeros(1)]),
    "itself": described(b"\x80\x02}q\x00U\x05modelh\x00s."),
    "cut": WHOLE[: len(WHOLE) // 2],
    "old, cut": OLD[:-9],
    "old, longer storage": OLD.replace(b"K\x04Nt", b"J\xff\xff\xff\x7fNt"),
    "old, no end": OLD[:40],
    "nothing": b"",
    "a number": b"\x80\x02K\x01.",
    "text": b"just text",
    "zip of nothing": b"PK\x05\x06" + bytes(18),
}  # fmt: skip


def refused(read, kind) -> None:
    def run():
        with pytest.raises(kind):
            read()

    cost = measured(run)
    assert cost.seconds < 2.0 and cost.bytes < 150_000_000, cost


@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
def test_checkpoints_that_are_no_weights(tmp_path: Path, data):
    path = tmp_path / "weights.pth"
    path.write_bytes(data)
    refused(lambda: read_state_dict(path), ModelError)
    if not data.startswith(b"PK") or "a" not in str(data[:200]):
        refused(lambda: read_checkpoint(path), TrainingError)


def safetensors(header: bytes, data: bytes = bytes(16), size: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if size is None else size) + header + data


@pytest.mark.parametrize(
    "data",
    [
        safetensors(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}', size=2**63),
        safetensors(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}', size=90_000_000),
        safetensors(b'{"a":{"dtype":"F32","shape":[4000000000,4000000000],"data_offsets":[0,16]}}'),
        safetensors(b'{"a":{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}}'),
        safetensors(b'{"a":{"dtype":"F99","shape":[4],"data_offsets":[0,16]}}'),
        safetensors(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,1600]}}'),
        safetensors(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[16,0]}}'),
        safetensors(b"[" * 100_000),
        safetensors(b'{"a":' * 100_000),
        safetensors(b"{}", b""),
        b"",
        b"\x01",
    ],
)
def test_safetensors_that_are_no_weights(tmp_path: Path, data):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    path = tmp_path / "weights.safetensors"
    path.write_bytes(data)
    refused(lambda: read_state_dict(path), ModelError)


@pytest.mark.parametrize("data", [WHOLE, OLD], ids=["new", "old"])
def test_whole_files_are_read(tmp_path: Path, data):
    path = tmp_path / "weights.pth"
    path.write_bytes(data)
    assert torch.equal(read_state_dict(path)["a"], STATE["a"])
