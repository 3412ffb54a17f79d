"""Processes that do the slow work as durable steps."""
