"""Measuring latencies, one file per runtime."""
