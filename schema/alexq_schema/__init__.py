"""What alexq's processes agree on: names, messages, errors, settings, jobs and their tables."""
