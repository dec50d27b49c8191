"""Stage batch, the edge: what a message holds besides plain text: parts of text, images, sound, files.

In: a message's `content`, as chat and responses have it. Out: its text, what it needs a model to be capable
of, and bounds. Next: `chat` and `responses` add it up.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from modelfleet_sidecar.bounds import template_tokens
from modelfleet_sidecar.failures import bad_field
from modelfleet_sidecar.request_fields import kind_of

TEXT = frozenset({"text", "input_text", "output_text"})
IMAGE = frozenset({"image_url", "input_image"})
NEEDS = {
    "input_audio": "audio",
    "audio_url": "audio",
    "video_url": "vision",
    "file": "files",
    "input_file": "files",
}
"""What other parts need; how many tokens they are nobody can tell from outside."""
_IMAGE_FIELDS = frozenset({"type", "image_url", "detail", "file_id", "cache_control"})


@dataclass(slots=True)
class Held:
    """What the messages of one request hold, added up."""

    texts: list[str] = field(default_factory=list)
    hidden_tokens: int = 0
    images: int = 0
    needs: set[str] = field(default_factory=set)
    unbounded: str = ""
    """The first part whose tokens nobody can tell."""

    def add(self, content: object, where: str) -> None:
        """Count one message's content. Raises Failure that names the part."""
        if content is None:  # as in an assistant's message that only calls tools
            self.texts.append("")
            return
        if isinstance(content, str):
            self.texts.append(content)
            return
        if not isinstance(content, list):
            raise bad_field(where, f"must be a string or a list of parts, not {kind_of(content)}")
        texts: list[str] = []
        for index, part in enumerate(content):
            at = f"{where}[{index}]"
            if not isinstance(part, dict) or not isinstance(part.get("type"), str):
                raise bad_field(at, "must be an object with a type such as text")
            kind = part["type"]
            if kind in TEXT:
                if not isinstance(part.get("text"), str):
                    raise bad_field(f"{at}.text", f"must be a string, not {kind_of(part.get('text'))}")
                texts.append(part["text"])
            elif kind in IMAGE:
                self._image(part)
            elif kind == "refusal":
                self.hidden_tokens += template_tokens(part)
            else:
                self.unbounded = self.unbounded or at
                self.needs |= {NEEDS[kind]} if kind in NEEDS else set()
        self.texts.append("\n".join(texts))

    def _image(self, part: dict[str, object]) -> None:
        """Count an image as one, however long its text: servers see its pixels."""
        self.images += 1
        self.needs.add("vision")
        self.hidden_tokens += template_tokens({k: v for k, v in part.items() if k not in _IMAGE_FIELDS})
