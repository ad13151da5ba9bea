"""How good a model version is on a labelled set, measured through the queue as any other work."""
