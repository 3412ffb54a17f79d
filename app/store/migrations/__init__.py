"""Alembic migrations of our tables; the job engine migrates its own."""
