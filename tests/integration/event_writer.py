"""`python -m tests.integration.event_writer NUM JOB..`: a process that writes NUM numbered lines to each job, taking turns."""

import sys

from app.settings import Settings
from app.store.repositories import Events
from app.store.sessions import Database


def main() -> None:
    num_lines, *jobs = sys.argv[1:]
    database = Database(Settings().url)
    for number in range(int(num_lines)):
        for job_id in jobs:
            with database.write() as session:
                Events(session).append(job_id, "log", {"text": f"{number}"})
    database.close()


if __name__ == "__main__":
    main()
