"""Training: labelled pictures in, a model version out."""
