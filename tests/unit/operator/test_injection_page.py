"""docs/injection.md shows what the program does."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from modelfleet_operator.injection import patch, sidecar
from modelfleet_operator.injection.printing import EXAMPLE, with_sidecar
from modelfleet_operator.injection.settings import PrintSettings, parse_settings

PAGE = (Path(__file__).parents[3] / "docs" / "injection.md").read_text(encoding="utf-8")


def test_the_sidecar_to_copy_is_what_the_command_prints() -> None:
    command = re.search(r"`modelfleet-injector (print [^`]*)`", PAGE)
    assert command is not None
    settings = parse_settings(command[1].split(), {})
    assert isinstance(settings, PrintSettings)
    *_, shown = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    authority = re.search(r"( *)(-----BEGIN.*?-----END CERTIFICATE-----\n)", shown, re.DOTALL)
    assert authority is not None
    template = replace(settings.template, authority=authority[2].replace(authority[1], ""))
    printed, warnings = with_sidecar(EXAMPLE, template, settings.keys)
    assert (printed, warnings) == (shown, ())


def test_the_names_that_users_meet_are_on_the_page() -> None:
    names = [
        patch.CPU_ANNOTATION,
        patch.MEMORY_ANNOTATION,
        sidecar.CONTAINER,
        sidecar.TOKEN_VOLUME,
        sidecar.JOURNAL_VOLUME,
        sidecar.KEYS_VOLUME,
        *map(str, sidecar.PORTS),
        *(name for name, _ in sidecar.APPLICATION_ENV),
    ]
    assert [name for name in names if name not in PAGE] == []
