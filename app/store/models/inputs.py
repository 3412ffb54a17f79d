"""What users upload: networks and images."""

from datetime import datetime

from sqlalchemy import JSON, BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from app.store.base import Base, Id, Sha256, UtcDateTime, database_now


class ModelRow(Base):
    """An uploaded network."""

    __tablename__ = "model"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    arch: Mapped[str] = mapped_column(String(200))
    sha256: Mapped[str] = mapped_column(Sha256, index=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    num_parameters: Mapped[int] = mapped_column(BigInteger)
    num_outputs: Mapped[int]
    input_shape: Mapped[list[int] | None] = mapped_column(JSON(none_as_null=True))
    class_names: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=database_now())


class DatasetRow(Base):
    """An uploaded ImageFolder zip."""

    __tablename__ = "dataset"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    sha256: Mapped[str] = mapped_column(Sha256, index=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    image_size: Mapped[int]
    mean: Mapped[list[float]] = mapped_column(JSON)
    std: Mapped[list[float]] = mapped_column(JSON)
    classes: Mapped[list[str]] = mapped_column(JSON)
    num_images: Mapped[dict[str, int]] = mapped_column(JSON)
    num_skipped: Mapped[int]
    skipped: Mapped[list[str]] = mapped_column(JSON)
    class_map: Mapped[dict[str, int] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=database_now())
