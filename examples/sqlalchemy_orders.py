"""Orders in a database, each change with its intent before COMMIT. `python -m examples.sqlalchemy_orders [DIR]`.

At its start the service asks the database what became of transactions that a crash has cut off, and records it.
"""

import sys
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from audit_async import ActorInfo, AuditConfig, AuditLogger, AuditReader, Local, run
from audit_async.ambient import acting_as, set_audit
from audit_async.integrations.sqlalchemy import audit_session, marker_table, resolve_unfinished


class Base(DeclarativeBase):
    """All tables."""


class Order(Base):
    """An order of a customer."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]
    state: Mapped[str] = mapped_column(default="new")


marker = marker_table(Base.metadata)  # with PostgreSQL it is not needed
Sessions = async_sessionmaker(class_=AsyncSession, expire_on_commit=False)
audit_session(Sessions, [Order], relation="intent", marker=marker)


async def pay(order_id: int) -> None:
    """Do what the service is for."""
    async with Sessions.begin() as session:
        order = await session.get_one(Order, order_id)
        order.state = "paid"


async def main(directory: Path) -> None:
    """Run the service."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{directory}/orders.db")
    Sessions.configure(bind=engine)
    async with AuditLogger(AuditConfig(mode=Local(directory / "audit"), service_id="orders")) as audit:
        set_audit(audit)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        print(
            "after the last run:",
            await resolve_unfinished(AuditReader(directory / "audit"), audit, engine, marker=marker),
        )
        with acting_as(ActorInfo(user_id="alice")):
            async with Sessions.begin() as session:
                order = Order(customer="carol")
                session.add(order)
            await pay(order.id)
    await engine.dispose()


if __name__ == "__main__":
    run(main, Path(sys.argv[1] if len(sys.argv) > 1 else "."))
