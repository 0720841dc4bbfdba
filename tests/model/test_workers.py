"""Workers share out the threads and run in the modes of their caller."""

from __future__ import annotations

import torch

from openglip.model.workers import Workers


def test_a_worker_has_its_share_of_the_threads_and_one_item_has_all():
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with Workers(torch.device("cpu")) as workers:
            assert len(workers) == 4
            assert workers.map(lambda _: torch.get_num_threads(), [0]) == [4]
            assert workers.map(lambda _: torch.get_num_threads(), [0, 1]) == [2, 2]
            assert workers.map(lambda item: -item, range(20)) == [-i for i in range(20)]
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                modes = workers.map(
                    lambda _: (torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")), [0, 1]
                )
            assert modes == [(True, True)] * 2
            assert workers.map(lambda _: torch.is_grad_enabled(), [0, 1]) == [True, True]
        assert len(Workers(torch.device("cpu"), at_most=3)) == 3
        assert len(Workers(torch.device("meta"))) == 1
    finally:
        torch.set_num_threads(threads)
