"""From the bytes of an image to the probabilities of its labels.

Decoding needs only Pillow; everything that touches the device is in ``engine``. Knows no queue, no
database and no settings: what it needs is handed in.
"""
