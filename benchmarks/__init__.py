"""Programs that measure alexq; README.md says how and what they found."""
