"""Plain DDP in real processes: as many steps on every rank, no row on two, one model in the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feed.data import write_training_set

RUNS = [(2, "uniform"), (3, "natural")]

# Ranks are forked from one process that has imported what they need: importing it takes longer than the test.
TRAIN = """
import json, os, socket, sys
from datetime import timedelta
from multiprocessing import get_context
import torch, torch._dynamo
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from sparkimb.feed.torch import make_torch_loader

def train(path, out, rank, world_size, port, balance):
    distributed.init_process_group(
        "gloo", f"tcp://127.0.0.1:{port}", timedelta(seconds=60), rank=rank, world_size=world_size
    )
    torch.manual_seed(0)
    model = DistributedDataParallel(torch.nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), 1e-6)
    epochs = []
    with make_torch_loader(path, 16, balance=balance, shuffle_rows=100) as loader:
        for _ in range(2):
            epochs.append([])
            for features, labels, _ in loader:
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(features), labels).backward()
                optimizer.step()
                epochs[-1].append(features[:, 0].tolist())
    weight = model.module.weight.detach().tolist()
    with open(f"{out}/{world_size}-{rank}", "w") as file:
        json.dump({"steps": len(loader), "epochs": epochs, "weight": weight}, file)
    distributed.barrier()
    os._exit(0)  # not by way of DDP's destructor, which waited forever for gloo's thread in one run of six under load

path, out, runs = sys.argv[1:]
for world_size, balance in json.loads(runs):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = get_context("fork").Process
    ranks = [start(target=train, args=(path, out, rank, world_size, port, balance)) for rank in range(world_size)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    if any(rank.exitcode for rank in ranks):
        sys.exit(f"{world_size} ranks ended with {[rank.exitcode for rank in ranks]}")
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """Two files, each of seven row groups of 50 rows and one of 21: no multiple of anything here."""
    path: Path = tmp_path_factory.mktemp("distributed")
    write_training_set(path / "set", (651, 91), shards=2)
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(path / "set"), str(path), json.dumps(RUNS)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the ranks too
        raise
    assert process.returncode == 0, errors
    return {size: [json.loads((path / f"{size}-{rank}").read_text()) for rank in range(size)] for size, _ in RUNS}


@pytest.mark.parametrize(("world_size", "balance"), RUNS)
def test_ranks_keep_step_and_share_no_row(
    world_size: int, balance: str, results: dict[int, list[dict[str, Any]]]
) -> None:
    ranks = results[world_size]
    rows = 742 // world_size
    assert {rank["steps"] for rank in ranks} == {-(-rows // 16)}
    assert all(np.allclose(rank["weight"], ranks[0]["weight"]) for rank in ranks)
    for epoch in range(2):
        batches = [rank["epochs"][epoch] for rank in ranks]
        assert len({tuple(len(batch) for batch in own) for own in batches}) == 1
        own_rows = [{row for batch in own for row in batch} for own in batches]
        assert sum(len(own) for own in own_rows) == len(set().union(*own_rows))
        if balance == "natural":
            assert {len(own) for own in own_rows} == {rows}
