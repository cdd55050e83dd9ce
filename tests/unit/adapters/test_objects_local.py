from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from adapters.objects import open_objects, s3_address
from pipeline.errors import ConfigError, DependencyDownError, PoisonError, StorageFullError


async def test_a_full_disk_is_told_from_a_store_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with open_objects((tmp_path / "objects").as_uri()) as store:
        monkeypatch.setattr(os, "fsync", no_space)
        with pytest.raises(StorageFullError):
            await store.put("images/a", b"x", content_type="image/png")
        monkeypatch.undo()
        assert await store.stat("images/a") is None
        await store.put("images/a", b"x", content_type="image/png")


async def test_half_written_objects_are_never_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_objects((tmp_path / "objects").as_uri()) as store:
        await store.put("images/a", b"whole", content_type="image/png")
        (tmp_path / "objects" / ".storing" / "dead-writer").write_bytes(b"hal")
        assert [entry.key async for entry in store.list("")] == ["images/a"]
        with pytest.raises(PoisonError):
            await store.get(".storing/dead-writer")


async def test_what_a_dead_writer_left_is_dropped_at_the_next_start(tmp_path: Path) -> None:
    folder = tmp_path / "objects" / ".storing"
    folder.mkdir(parents=True)
    (folder / "old").write_bytes(b"hal")
    os.utime(folder / "old", (0, 0))
    (folder / "fresh").write_bytes(b"hal")
    async with open_objects((tmp_path / "objects").as_uri()):
        assert [path.name for path in folder.iterdir()] == ["fresh"]


async def test_a_symbolic_link_does_not_lead_out_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    async with open_objects((tmp_path / "objects").as_uri()) as store:
        (tmp_path / "objects" / "link").symlink_to(tmp_path / "secret")
        (tmp_path / "objects" / "loop").symlink_to(tmp_path / "objects" / "loop")
        for key in ("link", "loop"):
            with pytest.raises((PoisonError, DependencyDownError)):
                await store.get(key)


async def test_an_allowed_foreign_directory_is_read_and_its_neighbour_is_not(
    tmp_path: Path,
) -> None:
    for name in ("mes", "mes-secret"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(name.encode())
    async with open_objects(
        (tmp_path / "objects").as_uri(), allowed_prefixes=(f"{tmp_path}/mes",)
    ) as store:
        assert await store.get("1.png", bucket=f"{tmp_path}/mes") == b"mes"
        for bucket in (f"{tmp_path}/mes-secret", f"{tmp_path}/mes/../mes-secret", str(tmp_path)):
            with pytest.raises(PoisonError) as caught:
                await store.get("1.png", bucket=bucket)
            assert caught.value.reason in ("bucket_not_allowed", "bad_object_key")


async def test_a_store_whose_directory_vanished_is_away_and_not_empty(tmp_path: Path) -> None:
    async with open_objects((tmp_path / "objects").as_uri()) as store:
        (tmp_path / "objects").rmdir()
        with pytest.raises(DependencyDownError):
            await store.get("images/a")


@pytest.mark.parametrize(
    "url",
    ["http://x", "file://host/x", "s3://?endpoint=http://h", "s3://bucket", "s3://b?endpoint=h"],
)
async def test_an_address_that_cannot_work_is_told_at_the_start(url: str) -> None:
    with pytest.raises(ConfigError, match="LINESIDE_OBJECTS__URL"):
        async with open_objects(url):
            pass


def test_an_s3_address_names_server_bucket_and_scheme() -> None:
    address = s3_address(
        "s3://pictures?endpoint=https://store.plant:9000&region=kr", access_key="a", secret_key="s"
    )
    assert (address.endpoint, address.bucket) == ("store.plant:9000", "pictures")
    assert address.secure
    assert address.region == "kr"
