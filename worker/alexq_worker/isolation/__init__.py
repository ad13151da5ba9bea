"""Suspects run alone, in a child process with limits: an image that kills costs only the child."""
