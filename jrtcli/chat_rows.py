"""Rows of an OpenAI batch file: a chat request as a document and a question about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ANSWERS_DEPEND_ON = ("max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop", "n")
"""Fields of a request that say how it is answered; here the options of the command line say it."""


def is_chat(row: Mapping[str, Any]) -> bool:
    """Whether a row is a request of an OpenAI batch file."""
    return "custom_id" in row and isinstance(row.get("body"), Mapping)


def chat(body: Mapping[str, Any]) -> tuple[str, str]:
    """The document and the question of a request.

    The last message is the question and those before it are the document; a single message ends with the
    question, as its last part or its last paragraph. Raises ValueError, which names what is wrong.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError("body.messages is no list of messages")
    parts: list[str] = []
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, Mapping):
            raise ValueError(f"message {number} is no object")
        if message.get("role") not in ("system", "developer", "user"):
            raise ValueError(
                f"message {number} is of neither system nor user: only a document and a question"
            )
        said = _texts(message.get("content"), number)
        parts += said if len(messages) == 1 else ["\n\n".join(said)]
    if messages[-1].get("role") != "user":
        raise ValueError("the last message is not of the user: it is the question")
    if len(parts) == 1:
        document, _, question = parts[0].rstrip().rpartition("\n\n")
        if not document.strip():
            raise ValueError("a single message of one paragraph: the document stands before the question")
        return document, question
    return "\n\n".join(parts[:-1]), parts[-1]


def _texts(content: Any, number: int) -> list[str]:
    if isinstance(content, str):
        return [content]
    texts = []
    for part in content if isinstance(content, list) else [None]:
        text = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
        if not isinstance(text, str):
            raise ValueError(f"message {number} is not text")
        texts.append(text)
    if not texts:
        raise ValueError(f"message {number} is empty")
    return texts
