"""Text from outside (titles, remarks, sites, columns of label files) as text in Markdown, never as markup."""

from __future__ import annotations

#: What Markdown, HTML in it, or mathematics in it begin with.
_MARKUP = str.maketrans({sign: f"\\{sign}" for sign in "\\`*_[]<>|$~&"})


def escape_markdown(text: str) -> str:
    """The text on one line, without meaning to Markdown or to HTML inside Markdown."""
    return " ".join(text.translate(_MARKUP).split())
