"""Layers side by side in threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from pifi_probe.scoring.threads import side_by_side


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_order_and_the_number_of_threads_stays(threads: int) -> None:
    assert list(side_by_side(lambda n: n * n, range(20))) == [n * n for n in range(20)]
    assert torch.get_num_threads() == threads


def test_an_error_is_raised_at_its_place(threads: int) -> None:
    found = side_by_side(lambda n: 1 / (n - 2), range(5))
    assert [next(found), next(found)] == [-0.5, -1.0]
    with pytest.raises(ZeroDivisionError):
        next(found)
    assert torch.get_num_threads() == threads


def test_items_are_worked_on_at_once_each_on_one_thread_of_torch() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    meeting = threading.Barrier(2, timeout=30)

    def meet(_: int) -> int:
        meeting.wait()  # nobody passes alone
        return torch.get_num_threads()

    try:
        assert list(side_by_side(meet, range(2))) == [1, 1]
    finally:
        torch.set_num_threads(before)
