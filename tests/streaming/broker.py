"""A Kafka broker of one process, on loopback, from the jars in SPARKIMB_JARS/kafka-broker."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

PATIENCE = 90  # seconds for a broker to come up: it takes three alone, on two busy cores far longer

PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={folder}/logs
num.partitions=2
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
"""


class Broker:
    """A broker that can be killed and started again where it was; topics come into being when written to.

    Parameters
    ----------
    folder : Path
        For its files; it must not be there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.port, controller = _free_ports(2)
        self.address = f"127.0.0.1:{self.port}"
        self.log = folder / "log"
        properties = folder / "server.properties"
        properties.write_text(PROPERTIES.format(broker=self.port, controller=controller, folder=folder))
        java = ["java", "-Xmx512m", "-cp", str(Path(os.environ["SPARKIMB_JARS"], "kafka-broker", "*"))]
        self.command = [*java, "kafka.Kafka", str(properties)]
        form = [*java, "kafka.tools.StorageTool", "format", "-t", "abcdefghijklmnopqrstuv", "-c", str(properties)]
        with self.log.open("a") as log:
            subprocess.run(form, check=True, stdout=log, stderr=log, timeout=PATIENCE)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self.log.open("a") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        _wait_for(self.port, self.process, self.log)

    def kill(self) -> None:
        """End it as the machine's end would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Let it end."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()


@contextmanager
def running_broker(folder: Path) -> Iterator[Broker]:
    """Run a broker."""
    broker = Broker(folder)
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()


def _free_ports(n: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]  # all at once, or two might be the same
    ports = [int(opened.getsockname()[1]) for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        assert process.poll() is None, f"the broker has ended: {log.read_text()}"
        try:
            with closing(socket.create_connection(("127.0.0.1", port), timeout=1)):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"the broker did not come up within {PATIENCE} s: {log.read_text()}")
