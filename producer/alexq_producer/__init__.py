"""Submit images to alexq and get their labels, straight through the database and the broker."""

from alexq_producer.producer import Producer
from alexq_producer.submission import Rejection, Submission

__all__ = ["Producer", "Rejection", "Submission"]
