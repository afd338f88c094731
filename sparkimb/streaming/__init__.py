"""Structured Streaming: balance, weigh and watch an endless stream, exactly once."""

from sparkimb.streaming.balancer import BalancerState, BatchCounts, StreamingBalancer
from sparkimb.streaming.counts import DecayedCounts
from sparkimb.streaming.drift import DdmOci, DriftMonitor, LinearFourRates
from sparkimb.streaming.metrics import StreamingMetrics
from sparkimb.streaming.query import BatchRunner, start_balanced
from sparkimb.streaming.sinks import DeltaSink, KafkaSink, MemorySink, ParquetSink, Sink, drop_repeats
from sparkimb.streaming.state import StateTable
from sparkimb.streaming.state_counts import ClassTotals, StateCounts

__all__ = [
    "BalancerState",
    "BatchCounts",
    "BatchRunner",
    "ClassTotals",
    "DdmOci",
    "DecayedCounts",
    "DeltaSink",
    "DriftMonitor",
    "KafkaSink",
    "LinearFourRates",
    "MemorySink",
    "ParquetSink",
    "Sink",
    "StateCounts",
    "StateTable",
    "StreamingBalancer",
    "StreamingMetrics",
    "drop_repeats",
    "start_balanced",
]
