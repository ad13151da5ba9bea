"""What classification through a queue costs: alexq, its ceiling, and what people would use instead."""
