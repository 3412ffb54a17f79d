"""Schemathesis against the whole service: every route, hostile and right requests, chains of them along links."""
