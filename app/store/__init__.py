"""Everything that is kept: SQL in `repositories/`, files in `blobs.py`. Only callers commit."""
