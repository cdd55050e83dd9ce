"""The language model that the settings name."""

from __future__ import annotations

from adapters.text_models.openai_chat import OpenAiChatModel
from adapters.text_models.server import LlmServer, TextModelLimits
from adapters.text_models.tgi import TgiModel
from app.settings import Settings
from pipeline.ports import TextModel


def build_text_model(settings: Settings) -> TextModel | None:
    """Return the configured model, None when reports are to be excerpts.

    Raises:
        ConfigError: LINESIDE_LLM__BASE_URL is no http address.
    """
    llm = settings.llm
    if not llm.base_url:
        return None
    server = LlmServer(
        llm.base_url,
        llm.model,
        llm.api_key.get_secret_value() if llm.api_key else None,
        TextModelLimits(concurrency=llm.slots),
    )
    return TgiModel(server) if llm.kind == "tgi" else OpenAiChatModel(server)
