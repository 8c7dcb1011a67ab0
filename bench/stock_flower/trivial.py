"""A Flower app as Flower's own tutorials write it; its clients return what they were sent."""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

server = ServerApp()
client = ClientApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """Return the arrays unchanged."""
    content = RecordDict(
        {
            "arrays": message.content["arrays"],
            "metrics": MetricRecord({"num-examples": 1}),
        }
    )
    return Message(content=content, reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds and write the time at the end of each, the start first, as a JSON list."""
    config = context.run_config
    num_clients = int(config["num-clients"])
    times: list[float] = []

    def note_time(_server_round: int, _arrays: ArrayRecord) -> MetricRecord:
        times.append(time.perf_counter())
        return MetricRecord()

    strategy = FedAvg(
        fraction_evaluate=0.0,
        min_train_nodes=num_clients,
        min_available_nodes=num_clients,
        min_evaluate_nodes=0,
    )
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord([np.zeros(int(config["num-values"]), dtype=np.float32)]),
        num_rounds=int(config["num-rounds"]),
        evaluate_fn=note_time,
    )
    Path(str(config["times"])).write_text(json.dumps(times), encoding="utf-8")
