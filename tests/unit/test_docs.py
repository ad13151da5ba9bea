"""What the documents say is so."""

from __future__ import annotations

import re
from pathlib import Path

from alexq_schema.settings import Settings

ROOT = Path(__file__).parents[2]


def test_every_setting_is_documented_and_no_other() -> None:
    documented = set(re.findall(r"^\| `ALEXQ_(\w+)`", (ROOT / "docs/settings.md").read_text(), re.MULTILINE))

    assert documented == {name.upper() for name in Settings.model_fields}


def test_every_link_between_documents_leads_somewhere() -> None:
    broken = [
        f"{document.relative_to(ROOT)}: {target}"
        for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")]
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text())
        if not (document.parent / target).exists()
    ]

    assert broken == []
