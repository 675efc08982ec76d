"""A minimal Flower app: Flower's own FedAvg, and a client that trains a small perceptron."""

import json
import time
from pathlib import Path

import numpy as np
import torch

# The first optimiser of a process imports this, 1.3 s: process start, not the silo's computing.
import torch._dynamo
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg, FedMedian

client = ClientApp()
server = ServerApp()


def model_of(inputs: int) -> torch.nn.Module:
    """Return the model that the other side of the benchmark trains, too."""
    return torch.nn.Sequential(
        torch.nn.Linear(inputs, 32),
        torch.nn.ReLU(),
        torch.nn.Linear(32, 32),
        torch.nn.ReLU(),
        torch.nn.Linear(32, 2),
    )


@client.train()
def train(message: Message, context: Context) -> Message:
    """Take some optimiser steps from the global model."""
    started = time.perf_counter()
    config = context.run_config
    torch.set_num_threads(1)
    data = np.load(str(context.node_config["data"]))
    features, labels = torch.from_numpy(data["features"]), torch.from_numpy(data["labels"])
    model = model_of(int(config["inputs"]))
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(
        model.parameters(), lr=float(config["lr"]), momentum=float(config["momentum"])
    )
    for _ in range(int(config["steps"])):
        rows = torch.randint(len(labels), (int(config["batch-size"]),))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(features[rows]), labels[rows]).backward()
        optimizer.step()
    lie = float(context.node_config.get("lie", 1.0))
    told = {name: value * lie for name, value in model.state_dict().items()}
    metrics = {"num-examples": len(labels), "seconds": time.perf_counter() - started}
    content = RecordDict({"arrays": ArrayRecord(told), "metrics": MetricRecord(metrics)})
    return Message(content=content, reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the strategy, note when each round has ended, and keep the model."""
    config = context.run_config
    silos = int(config["silos"])
    fewest = int(config["min-silos"]) or silos
    slowest = [0.0]

    def note(number: int, arrays: ArrayRecord) -> None:
        with Path(str(config["marks"])).open("a") as file:
            file.write(json.dumps({"round": number, "slowest_s": slowest[0]}) + "\n")

    def metrics(replies: list[RecordDict], weighted_by_key: str) -> MetricRecord:
        slowest[0] = max(float(reply["metrics"]["seconds"]) for reply in replies)
        return MetricRecord({"slowest": slowest[0]})

    strategy = {"FedAvg": FedAvg, "FedMedian": FedMedian}[str(config["strategy"])]
    result = strategy(
        fraction_evaluate=0.0,
        min_train_nodes=fewest,
        min_available_nodes=fewest,
        train_metrics_aggr_fn=metrics,
    ).start(
        grid=grid,
        initial_arrays=ArrayRecord(model_of(int(config["inputs"])).state_dict()),
        num_rounds=int(config["rounds"]),
        timeout=float(config["timeout"]),
        evaluate_fn=note,
    )
    if config["result"]:
        arrays = {n: v.numpy() for n, v in result.arrays.to_torch_state_dict().items()}
        np.savez(str(config["result"]), **arrays)
