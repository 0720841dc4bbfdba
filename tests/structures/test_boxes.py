import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from openglip.structures import boxes as bx

corner = st.floats(-50, 50, width=32)
box = st.tuples(corner, corner, st.floats(0, 60, width=32), st.floats(0, 60, width=32))
box_lists = st.lists(box, min_size=1, max_size=6).map(lambda b: bx.xywh_to_xyxy(np.array(b, np.float64)))


def test_iou_of_known_boxes():
    a = np.array([[0, 0, 10, 10]], np.float64)
    b = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [3, 3, 3, 3]], np.float64)
    np.testing.assert_allclose(bx.iou(a, b)[0], [1, 1 / 3, 0, 0])
    np.testing.assert_allclose(bx.iou(a, b, plus_one=True)[0][1], 66 / 176)


@given(box_lists, box_lists)
def test_iou_is_symmetric_bounded_and_the_same_in_torch(a, b):
    overlap = bx.iou(a, b)
    assert ((overlap >= 0) & (overlap <= 1 + 1e-9)).all()
    np.testing.assert_allclose(overlap, bx.iou(b, a).T)
    for plus_one in (False, True):
        in_torch = bx.pairwise_iou(torch.from_numpy(a), torch.from_numpy(b), plus_one).numpy()
        np.testing.assert_allclose(in_torch, bx.iou(a, b, plus_one), atol=1e-6)


@given(box_lists)
def test_conversions_go_back_and_giou_of_itself_is_one(a):
    np.testing.assert_allclose(bx.xywh_to_xyxy(bx.xyxy_to_xywh(a)), a, atol=1e-9)
    np.testing.assert_allclose(bx.scale(bx.scale(a, 2, 4), 0.5, 0.25), a, atol=1e-9)
    full = torch.from_numpy(a[bx.area(a) > 1e-3])
    np.testing.assert_allclose(bx.elementwise_giou(full, full).numpy(), 1, atol=1e-5)


def test_giou_of_boxes_apart_is_negative():
    a, b = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[3.0, 0, 4, 1]])
    torch.testing.assert_close(bx.elementwise_giou(a, b), torch.tensor([-0.5]))


def test_clip_keeps_rows_and_type():
    boxes = np.array([[-5, -5, 200, 50], [300, 10, 310, 20]], np.float32)
    clipped = bx.clip(boxes, 40, 100)
    assert clipped.dtype == np.float32
    np.testing.assert_array_equal(clipped, [[0, 0, 100, 40], [100, 10, 100, 20]])
