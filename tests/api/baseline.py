"""What the API is measured against: a plain FastAPI endpoint over an ORM, for the same page.

`uvicorn tests.api.baseline:app`, with DATABASE_URL.
"""

import os
from collections.abc import AsyncIterator
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated

from fastapi import Depends, FastAPI
from pydantic import BaseModel, ConfigDict
from sqlalchemy import func, literal_column, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

engine = create_async_engine(
    os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://", 1)
)
sessions = async_sessionmaker(engine)
app = FastAPI()


class Base(DeclarativeBase):
    """The tables."""


class Row(Base):
    """An opportunity, as a table."""

    __tablename__ = "opportunities"

    id: Mapped[int] = mapped_column(primary_key=True)
    remote_id: Mapped[str]
    opty_number: Mapped[str | None]
    name: Mapped[str | None]
    customer: Mapped[str | None]
    practice: Mapped[str | None]
    geo: Mapped[str | None]
    region: Mapped[str | None]
    sector: Mapped[str | None]
    deal_value: Mapped[Decimal | None]
    currency: Mapped[str | None]
    win_probability: Mapped[Decimal | None]
    sales_owner: Mapped[str | None]
    stage: Mapped[str | None]
    status_code: Mapped[str | None]
    workflow_status: Mapped[str]
    close_date: Mapped[date | None]
    remote_created_at: Mapped[datetime | None]
    remote_updated_at: Mapped[datetime | None]
    first_synced_at: Mapped[datetime]
    last_synced_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]
    assigned_to: Mapped[int | None]


class Item(BaseModel):
    """An opportunity, as an answer."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    remote_id: str
    opty_number: str | None
    name: str | None
    customer: str | None
    practice: str | None
    geo: str | None
    region: str | None
    sector: str | None
    deal_value: float | None
    currency: str | None
    win_probability: float | None
    sales_owner: str | None
    stage: str | None
    status_code: str | None
    workflow_status: str
    close_date: date | None
    remote_created_at: datetime | None
    remote_updated_at: datetime | None
    first_synced_at: datetime
    last_synced_at: datetime
    deleted_at: datetime | None
    assigned_to: int | None


class Page(BaseModel):
    """A page."""

    items: list[Item]
    total: int


async def session() -> AsyncIterator[AsyncSession]:
    """Give a session of the ORM."""
    async with sessions() as opened:
        yield opened


@app.get("/api/opportunities")
async def list_opportunities(
    opened: Annotated[AsyncSession, Depends(session)], stage: str, limit: int = 50
) -> Page:
    """Serve the page that the benchmark asks for: filtered, and sorted by value."""
    wanted = (func.left(Row.stage, literal_column("200")) == stage, Row.deleted_at.is_(None))
    value = func.coalesce(Row.deal_value, literal_column("'-infinity'"))
    rows = await opened.scalars(
        select(Row).where(*wanted).order_by(value.desc(), Row.id.desc()).limit(limit)
    )
    total = await opened.scalar(select(func.count()).select_from(Row).where(*wanted))
    return Page(items=[Item.model_validate(row) for row in rows], total=total or 0)
