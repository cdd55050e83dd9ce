import hashlib
import unicodedata
from datetime import UTC, datetime, timedelta, timezone

import pytest

from schemas.subject import check_product_code, image_id

SHA = "a" * 64


def test_an_image_id_is_the_hash_of_the_canonical_array() -> None:
    # sha256 of ["p",null,null,null,null,null,"aaa…"] computed by hand with sha256sum.
    canonical = '["p",null,null,null,null,null,"' + SHA + '"]'
    assert image_id(product="p", sha256=SHA) == hashlib.sha256(canonical.encode()).hexdigest()[:32]


def test_the_same_instant_in_another_zone_is_the_same_image() -> None:
    utc = datetime(2026, 11, 2, 5, 2, 11, 250_999, tzinfo=UTC)
    seoul = utc.astimezone(timezone(timedelta(hours=9)))
    assert image_id(product="p", sha256=SHA, captured_at=utc) == image_id(
        product="p", sha256=SHA, captured_at=seoul
    )


def test_composed_and_decomposed_hangul_are_the_same_image() -> None:
    name = "베어링"
    assert image_id(product=name, sha256=SHA) == image_id(
        product=unicodedata.normalize("NFD", name), sha256=SHA
    )


@pytest.mark.parametrize(
    "change",
    [
        {"source": "c"},
        {"part_id": "1"},
        {"view": "top"},
        {"idempotency_key": "k"},
        {"captured_at": datetime(2026, 1, 1, tzinfo=UTC)},
        {"sha256": "b" * 64},
    ],
)
def test_every_part_of_the_identity_makes_another_image(change: dict[str, object]) -> None:
    base: dict[str, object] = {"product": "p", "sha256": SHA}
    assert image_id(**base) != image_id(**{**base, **change})  # type: ignore[arg-type] # a table of keyword arguments


@pytest.mark.parametrize("code", ["베어링-하우징", "A_1", "x" * 64])
def test_a_code_of_letters_of_any_script_is_taken(code: str) -> None:
    assert check_product_code(code) == code


@pytest.mark.parametrize("code", ["", "a b", "../x", "a/b", "x" * 65, "a.b", "a\n"])
def test_a_code_that_could_build_a_path_is_refused(code: str) -> None:
    with pytest.raises(ValueError, match="product code"):
        check_product_code(code)
