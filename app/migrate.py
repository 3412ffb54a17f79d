"""Prepare the data folder and the database; what the API, a worker and `secateur migrate` do first."""

from app.queue import migrate_queue
from app.settings import Settings
from app.store.migrate import migrate_tables


def migrate(settings: Settings) -> None:
    """Create what is missing: the data folder, our tables, the job engine's. Any number of processes may call it."""
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    migrate_tables(settings.url)
    migrate_queue(settings.url)
