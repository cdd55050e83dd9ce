"""The language model that the settings name."""

from __future__ import annotations

from app.settings import Settings
from pipeline.ports import TextModel


def build_text_model(settings: Settings) -> TextModel | None:
    """Return the configured model, None when reports are to be excerpts."""
    raise NotImplementedError
