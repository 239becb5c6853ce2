"""A report without a word of the text, to be published where the text is another's: its figures alone."""

from __future__ import annotations

from typing import Any

Told = dict[str, Any]
LEFT_OUT = "Left out on wish, for it quotes the text."


def without_text(told: Told) -> Told:
    """The same report, null for whatever is of the held-out or training text, or was written by a model.

    What was counted of it stays: bits, shares, lengths and the number of prompts.
    """
    text, asked = told["text"], told["asked"]
    return {
        **told,
        "text": {
            **text,
            "passage": None,
            "prompts": [None] * len(text["prompts"]),
            "words": {**text["words"], "frequent": None, "rare": None},
        },
        "asked": {**asked, "prompts": [None] * len(asked["prompts"])},
        "runs": [{**run, "surprise": None, "samples": None} for run in told["runs"]],
    }


def has_text(told: Told) -> bool:
    """Whether a report is one with text, which all are, damaged ones too, but those of `without_text`."""
    text = told.get("text")
    return not isinstance(text, dict) or text.get("passage", "") is not None
