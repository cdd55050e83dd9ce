import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from app.cli.root import root
from app.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", page.read_text("utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_every_command_that_a_page_names_exists() -> None:
    known = set(root.list_commands(None))  # type: ignore[arg-type] # the list needs no context
    for page in PAGES:
        for line in re.findall(r"(?:bin/|`)lineside ([a-z-]+)", page.read_text("utf-8")):
            assert line in known, f"{page.name}: lineside {line}"


def test_every_setting_is_documented() -> None:
    text = (ROOT / "docs" / "settings.md").read_text("utf-8")
    for section, field in Settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            assert f"LINESIDE_{section.upper()}__" in text, section
            for name in kind.model_fields:
                assert f"__{name.upper()}`" in text, f"{section}.{name}"
        else:
            assert f"LINESIDE_{section.upper()}`" in text, section


def test_decisions_follow_the_template() -> None:
    for page in sorted((ROOT / "docs" / "adr").glob("*.md")):
        headings = re.findall(r"^## (.+)$", page.read_text("utf-8"), re.MULTILINE)
        assert headings == ["Status", "Context", "Decision", "Consequences", "Enforced by"], (
            page.name
        )
