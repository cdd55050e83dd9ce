from __future__ import annotations

import socket
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from adapters.kafka.admin import count_brokers


@pytest.mark.needs_kafka
async def test_the_broker_for_tests_is_a_real_one(kafka: str) -> None:
    assert await count_brokers(kafka) == 1


@pytest.mark.needs_s3
def test_the_object_store_for_tests_listens(s3: tuple[str, str, str]) -> None:
    address = urlsplit(s3[0])
    with socket.create_connection((address.hostname or "", address.port or 0), 5):
        pass


@pytest.mark.needs_postgres
async def test_the_database_for_tests_answers(postgres_url: str) -> None:
    engine = create_async_engine(postgres_url)
    async with engine.connect() as link:
        assert (await link.execute(text("select 1"))).scalar_one() == 1
    await engine.dispose()
