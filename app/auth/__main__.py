"""`python -m app.auth`: make a key with nothing but access to the database, for whoever has lost the last one."""

import argparse
import sys

from app.auth.keys import make_from_shell
from app.migrate import migrate
from app.settings import Settings
from app.store.models import DEFAULT_PROJECT
from app.store.sessions import Database
from secateur.access_schemas import Scope


def main() -> int:
    """Print a new key, and nothing else, on stdout; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m app.auth", description=__doc__)
    parser.add_argument("--name", default="made in a shell", help="what to call the key")
    parser.add_argument("--project", default=DEFAULT_PROJECT, help="id of its project")
    parser.add_argument("--scope", action="append", choices=[*Scope], help="what it may do; by default admin")
    options = parser.parse_args()
    settings = Settings()
    migrate(settings)
    database = Database(settings.url)
    try:
        with database.write() as session:
            scopes = {Scope(name) for name in options.scope or (Scope.ADMIN,)}
            print(make_from_shell(session, project_id=options.project, name=options.name, scopes=scopes))  # noqa: T201
    except LookupError as error:
        print(f"Secateur: {error.args[0]}.", file=sys.stderr)  # noqa: T201
        return 2
    finally:
        database.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
