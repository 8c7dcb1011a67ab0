"""An ordinary strategy of Flower's on the engine, with plain nodes."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from client.link import Link
from server.engine import EngineGrid, StoppedError
from tests.federation.world import Federation


def serve(link: Link, num_messages: int, value: float) -> None:
    """Answer as a plain ClientApp would."""
    for _ in range(num_messages):
        pulled = link.pull()
        assert pulled is not None
        message = pulled[0]
        if message.metadata.message_type == "train":
            arrays = message.content.array_records["arrays"]["w"].numpy()
            content = RecordDict(
                {
                    "arrays": ArrayRecord({"w": _array(arrays + value)}),
                    "metrics": MetricRecord({"num-examples": 1, "loss": value}),
                }
            )
        else:
            content = RecordDict({"metrics": MetricRecord({"num-examples": 1, "loss": value})})
        link.push(Message(content, reply_to=message))


def _array(values: np.ndarray) -> Array:
    return Array(values.astype(np.float32))


def test_stock_fedavg_runs_on_our_grid(federation: Federation) -> None:
    links = [federation.enrol(name).link() for name in "abc"]
    assert federation.coordinator is not None
    nodes = [link._node.node_id for link in links]
    engine = federation.coordinator.engine
    with (
        ThreadPoolExecutor(3) as pool,
        engine.open_run(None, lambda: nodes, 50_000) as grid,
    ):
        served = [pool.submit(serve, link, 4, float(number)) for number, link in enumerate(links)]
        strategy = FedAvg(min_train_nodes=3, min_evaluate_nodes=3, min_available_nodes=3)
        initial = ArrayRecord({"w": _array(np.zeros(4))})
        result = strategy.start(grid, initial, num_rounds=2, timeout=20)
        for each in served:
            each.result(timeout=10)
    np.testing.assert_allclose(result.arrays["w"].numpy(), np.full(4, 2.0))
    assert result.train_metrics_clientapp[2]["loss"] == pytest.approx(1.0)
    for link in links:
        link.close()


@pytest.fixture
def grid_and_link(federation: Federation) -> Iterator[tuple[EngineGrid, Link]]:
    link = federation.enrol("a").link()
    assert federation.coordinator is not None
    nodes = [link._node.node_id]
    with federation.coordinator.engine.open_run(None, lambda: nodes, 50_000) as grid:
        yield grid, link


def test_messages_are_pulled_one_by_one_as_flowers_own_grid_does(
    grid_and_link: tuple[EngineGrid, Link],
) -> None:
    grid, link = grid_and_link
    (node,) = grid.get_node_ids()
    content = RecordDict({"arrays": ArrayRecord({"w": _array(np.zeros(2))})})
    message = grid.create_message(content, "train", node, "1")
    ids = list(grid.push_messages([message]))
    assert list(grid.pull_messages(ids)) == []
    serve(link, 1, 5.0)
    (reply,) = grid.pull_messages(ids)
    np.testing.assert_allclose(reply.content.array_records["arrays"]["w"].numpy(), [5.0, 5.0])
    assert list(grid.pull_messages(ids)) == []


def test_a_node_that_comes_back_gets_its_instruction_again(
    federation: Federation, grid_and_link: tuple[EngineGrid, Link]
) -> None:
    grid, link = grid_and_link
    content = RecordDict({"arrays": ArrayRecord({"w": _array(np.zeros(2))})})
    (node,) = grid.get_node_ids()
    waiting = grid.send_and_receive([Message(content, node, "train")], timeout=20)
    first = link.pull()
    assert first is not None
    link.close()
    again = federation.sites["a"].link()
    serve(again, 1, 7.0)
    (reply,) = waiting
    np.testing.assert_allclose(reply.content.array_records["arrays"]["w"].numpy(), [7.0, 7.0])
    again.close()


def test_a_reply_that_is_complete_is_not_asked_for_again(
    federation: Federation, grid_and_link: tuple[EngineGrid, Link]
) -> None:
    grid, link = grid_and_link
    content = RecordDict({"arrays": ArrayRecord({"w": _array(np.zeros(2))})})
    (node,) = grid.get_node_ids()
    waiting = grid.send_and_receive([Message(content, node, "train")], timeout=20)
    serve(link, 1, 3.0)
    # It is killed, comes back and goes before the reply is looked at.
    link.close()
    again = federation.sites["a"].link()
    again.deactivate()
    again.close()
    (reply,) = waiting
    assert not reply.has_error()
    np.testing.assert_allclose(reply.content.array_records["arrays"]["w"].numpy(), [3.0, 3.0])


def test_a_stop_ends_a_wait_by_an_error(grid_and_link: tuple[EngineGrid, Link]) -> None:
    grid, _ = grid_and_link
    content = RecordDict({"arrays": ArrayRecord({"w": _array(np.zeros(2))})})
    (node,) = grid.get_node_ids()
    waiting = grid.send_and_receive([Message(content, node, "train")], timeout=20)
    threading.Timer(0.1, grid.stop).start()
    with pytest.raises(StoppedError):
        list(waiting)
    with pytest.raises(StoppedError):
        grid.push_messages([Message(content, node, "train")])
