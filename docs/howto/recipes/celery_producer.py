"""Hand in pictures with nothing but Celery and the broker's URL; no alexq is installed here.

    pip install "celery[redis]"
    python celery_producer.py redis://127.0.0.1:6379/0 cat.jpg dog.jpg

The task is alexq.classify_image on the queue alexq.classify, with image_base64, or with the image_key of an
earlier job. The task id is the job id. The answer stays an hour, also where a picture cannot be classified.
"""

import base64
import sys
from pathlib import Path

from celery import Celery


def main(broker_url: str, names: list[str]) -> int:
    app = Celery(broker=broker_url, backend=broker_url)
    sent = {}
    for name in names:
        image = base64.b64encode(Path(name).read_bytes()).decode()
        sent[name] = app.send_task(
            "alexq.classify_image", kwargs={"image_base64": image, "source": name}, queue="alexq.classify"
        )
    failed = 0
    for name, result in sent.items():
        job = result.get(timeout=60)
        if job["state"] == "succeeded":
            best = job["predictions"][0]
            print(f"{name}: {best['label']} ({best['probability']:.0%})")
        else:
            failed += 1
            print(f"{name}: {job['state']}, {job['error']['detail']}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
