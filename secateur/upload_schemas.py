"""The wire of uploads in several pieces."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from secateur.schemas import Wire

Purpose = Literal["model", "dataset"]
OFFSET = "Upload-Offset"
"""Header: how many bytes the service has."""
CHECKSUM = "Upload-Checksum"
"""Header: `sha256 <base64>` of the bytes of one PATCH."""
PIECE = "application/offset+octet-stream"
"""Media type of the body of a PATCH."""


class UploadCreate(Wire):
    """An upload to be begun."""

    purpose: Purpose
    size_bytes: int = Field(strict=True, ge=1)
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Of the whole file; it is then checked when the upload is used."""


class Upload(Wire):
    """An upload; bytes from `offset` on are still to come."""

    id: str
    purpose: Purpose
    size_bytes: int
    offset: int
    sha256: str | None
    complete: bool
    """True: name it as `upload_id` in POST /v1/models or /v1/datasets."""
    created_at: datetime
    expires_at: datetime
    """When it is forgotten unless more of it comes."""
