"""What can go wrong, as one tree.

    SecateurError
     +- ApiError             the service answered with a problem: code, detail, errors
     |   +- NotFound         404: no such model, dataset, job or file
     +- ConnectionFailed     no answer: nothing listens there, or the line broke and stayed broken
     +- UnexpectedAnswer     an answer that is not ours: another program listens at that address
     +- ChecksumMismatch     a downloaded file is not the one the service described; nothing was kept
     +- JobFailed            the job ended as failed; `job.failure` says why
     +- JobCancelled         the job ended as cancelled
     +- WaitTimeout          the job is still going after the time the caller allowed
     +- UsageError           the caller's mistake, seen before anything was sent (a ValueError too)

Every message is a sentence for people; the attributes are for programs.
"""

from secateur.lut_schemas import LutBuild
from secateur.schemas import Problem, PruneJob


class SecateurError(Exception):
    """Base of everything this package raises on purpose."""


class ApiError(SecateurError):
    """The service refused a request and said why."""

    def __init__(self, problem: Problem) -> None:
        """`problem` is the RFC 9457 body; its `code` is stable."""
        super().__init__(problem.detail or problem.title)
        self.problem = problem

    @property
    def code(self) -> str:
        """Stable snake_case name of the problem."""
        return self.problem.code

    @property
    def status(self) -> int:
        """HTTP status."""
        return self.problem.status


class NotFound(ApiError):
    """No such thing on this server."""


class ConnectionFailed(SecateurError):
    """The service could not be reached."""

    def __init__(self, url: str, reason: str) -> None:
        """`url` is the server's address, `reason` what the network said."""
        super().__init__(f"no answer from {url}: {reason}")
        self.url = url
        self.reason = reason


class UnexpectedAnswer(SecateurError):
    """Something answered that does not speak this API."""

    def __init__(self, url: str, reason: str) -> None:
        """`url` was asked, `reason` says what is odd about the answer."""
        super().__init__(f"{url} does not answer like a Secateur server: {reason}")
        self.url = url
        self.reason = reason


class ChecksumMismatch(SecateurError):
    """A file arrived damaged."""

    def __init__(self, name: str, expected: str, actual: str) -> None:
        """`expected` and `actual` are SHA-256 in hexadecimal."""
        super().__init__(f"{name} arrived damaged: SHA-256 is {actual[:12]}…, not {expected[:12]}…; nothing was kept")
        self.name = name
        self.expected = expected
        self.actual = actual


class JobFailed(SecateurError):
    """The job ended as failed."""

    def __init__(self, job: PruneJob | LutBuild) -> None:
        """`job` is its last state."""
        reason = f"{job.failure.detail} ({job.failure.code})" if job.failure else "no reason was given"
        super().__init__(f"job {job.id} failed: {reason}")
        self.job = job


class JobCancelled(SecateurError):
    """The job was cancelled before it ended."""

    def __init__(self, job: PruneJob | LutBuild) -> None:
        """`job` is its last state."""
        super().__init__(f"job {job.id} was cancelled")
        self.job = job


class WaitTimeout(SecateurError, TimeoutError):
    """The caller's patience ended before the job did; the job goes on."""

    def __init__(self, job_id: str, timeout_s: float) -> None:
        """`timeout_s` is the time that was allowed."""
        super().__init__(f"job {job_id} is still going after {timeout_s:g} s; it goes on without us")
        self.job_id = job_id
        self.timeout_s = timeout_s


class UsageError(SecateurError, ValueError):
    """The caller asked for something that makes no sense; nothing was sent."""
