"""The service's front door: HTTP, the database and nothing slow."""
