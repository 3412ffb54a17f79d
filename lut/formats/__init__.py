"""Latency tables as files: our JSON, and CSV with a full or a coarse key. Each format has a file of its own."""

from lut.formats.comma import CsvProfile, from_csv, to_csv

__all__ = ["CsvProfile", "from_csv", "to_csv"]
