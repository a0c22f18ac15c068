"""Tests of the search on a real Ray cluster."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pifi_probe.selection import events
from pifi_probe.selection.executors import make_executor
from pifi_probe.selection.store import Store
from tests.search_stub import SPACE, StubEvaluator, runner

ray = pytest.importorskip("ray")


@pytest.fixture
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the workers inherit, as from a shell's job in the background
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    signal.signal(signal.SIGINT, before)
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


def values(store: Store) -> dict[tuple[str, str, int], float]:
    return {r.trial.identity: r.trial.outcome.value for r in store.records() if r.trial.outcome is not None}


@pytest.mark.slow
def test_a_lost_node_costs_its_running_trial_and_the_numbers_are_those_of_one_process(cluster: Any) -> None:
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    store, seen = Store.open(None), []

    def lose_a_node(event: events.Event) -> None:
        seen.append(event)
        if len([one for one in seen if isinstance(one, events.TrialFinished)]) == 4 and node in cluster.worker_nodes:
            cluster.remove_node(node, allow_graceful=False)

    evaluator = StubEvaluator(seconds=0.5)
    engine = runner(store, evaluator=evaluator, executor=make_executor("ray", 2), on_event=lose_a_node, seeds=2)
    assert engine.run() == "finished"
    assert node not in cluster.worker_nodes
    alone = Store.open(None)
    runner(alone, evaluator=StubEvaluator(seconds=0.0), seeds=2).run()
    assert values(store) == values(alone)
    assert len(values(store)) == 2 * len(SPACE.singles())


@pytest.mark.slow
def test_a_search_on_ray_pauses_and_a_broken_layer_does_not_end_it(cluster: Any) -> None:
    store = Store.open(None)
    broken = StubEvaluator(seconds=0.0, broken=("llm[3]",))
    assert runner(store, evaluator=broken, executor=make_executor("ray", 1), seeds=1).run() == "finished"
    failed = [record.trial for record in store.records() if record.trial.state == "failed"]
    assert [trial.outcome.message for trial in failed if trial.outcome] == ["a tensor is missing | where: llm[3]"]
    engine = runner(store, evaluator=StubEvaluator(seconds=60.0), executor=make_executor("ray", 1), seeds=2)
    threading.Timer(2.0, engine.pause).start()
    began = time.monotonic()
    assert engine.run() == "paused"
    assert time.monotonic() - began < 30
