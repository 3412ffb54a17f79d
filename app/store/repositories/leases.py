"""Who does what only one process is to do."""

from sqlalchemy import update
from sqlalchemy.orm import Session

from app.store.base import database_now
from app.store.models import LeaseRow
from app.store.repositories.upsert import insert_or_skip


class Leases:
    """The `lease` table."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def take(self, name: str, lease_s: float) -> bool:
        """Take what nobody holds any more, by the database's clock, for `lease_s` seconds; one of several callers gets it."""
        insert_or_skip(self._session, LeaseRow, keys={"name": name}, insert={"until": database_now(-1)})
        query = update(LeaseRow).where(LeaseRow.name == name, LeaseRow.until < database_now())
        return self._session.scalar(query.values(until=database_now(lease_s)).returning(LeaseRow.name)) is not None
