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
MEDIA = frozenset(
    {
        *(
            "type",
            "image",
            "image_url",
            "image_pil",
            "image_embeds",
            "input_image",
            "video_url",
            "file",
            "file_id",
        ),
        *("file_data", "file_url", "input_audio", "audio_url", "audio_embeds"),
    }
)
"""Fields, in any case, by which a server may find something else in a part than its type says."""
_TEXT_FIELDS = frozenset({"type", "text", "cache_control"})
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
                if not part.keys() <= _TEXT_FIELDS:
                    self._others(part, _TEXT_FIELDS, at)
            elif kind in IMAGE:
                self.images += 1  # one, however long its text: servers see its pixels
                self.needs.add("vision")
                if not part.keys() <= _IMAGE_FIELDS:
                    self._others(part, _IMAGE_FIELDS, at)
            elif kind == "refusal":
                self.hidden_tokens += template_tokens(part)
            else:
                self.unbounded = self.unbounded or at
                self.needs |= {NEEDS[kind]} if kind in NEEDS else set()
        self.texts.append("\n".join(texts))

    def add_others(self, message: dict[str, object], known: frozenset[str], where: str) -> None:
        """Count what a message holds besides the fields that are known. Raises Failure for one of these in
        disguise."""
        others = {name: value for name, value in message.items() if name not in known and value}
        for name in message:
            if name not in known and name.casefold() in known:
                raise bad_field(f"{where}.{name}", f"is refused; write {name.casefold()}")
        self.hidden_tokens += template_tokens(others)
        if "audio" in others:  # of an answer before, by its id
            self.unbounded = self.unbounded or f"{where}.audio"

    def _others(self, part: dict[str, object], known: frozenset[str], at: str) -> None:
        """Count what a part holds besides what is known."""
        others = {name: value for name, value in part.items() if name not in known and value}
        self.hidden_tokens += template_tokens(others)
        if any(name.casefold() in MEDIA for name in others):
            self.unbounded = self.unbounded or at
