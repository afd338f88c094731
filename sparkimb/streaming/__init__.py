"""Structured Streaming: balance, weigh and watch an endless stream, exactly once."""
