"""What goes to a device and comes back, and lanes."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from mm_perception.gpu.transfer import Lane, constant, download, upload, upload_to_keep  # noqa: E402


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64, np.float32, np.float64, np.bool_])
@pytest.mark.parametrize("shape", [(), (0, 3), (4, 5)])
def test_what_goes_there_comes_back(device, dtype, shape):
    array = (np.random.default_rng(0).random(shape) * 300).astype(dtype)
    for one in (array, array[..., ::-1] if shape else array):
        for send in (upload, upload_to_keep):
            sent = send(one, device)
            assert sent.device.type == device.type
            back = download({"a": sent})["a"]
            assert back.dtype == dtype
            np.testing.assert_array_equal(back, one)


def test_uploads_are_copies(device):
    array = np.zeros(3, np.float32)
    sent, kept = upload(array, device), upload_to_keep(array, device)
    if device.type == "cuda":
        torch.cuda.synchronize()
    array[:] = 1
    assert not sent.any() and not kept.any()


def test_constants_are_made_once(device):
    assert constant((1.0, 2.0), torch.float32, device) is constant((1.0, 2.0), torch.float32, device)
    assert constant((1.0,), torch.float64, device).dtype == torch.float64


def test_what_waits_for_a_mark_sees_what_was_made_in_the_lane(device):
    lane = Lane(device.type)
    with lane.entered():
        value = torch.ones(1 << 20, device=device).cumsum(0)
    wait = lane.mark()
    wait()
    assert float(value[-1]) == 1 << 20


@pytest.mark.gpu
def test_a_lane_has_its_own_stream():
    if not torch.cuda.is_available():
        pytest.skip("torch sees no NVIDIA GPU")
    lane, outside = Lane("cuda"), torch.cuda.current_stream()
    with lane.entered():
        assert torch.cuda.current_stream() != outside
    assert torch.cuda.current_stream() == outside
