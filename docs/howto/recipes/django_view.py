"""A Django view that labels the picture it is sent, in a project of one file.

pip install alexq django
export ALEXQ_SERVER=http://127.0.0.1:8080      # and ALEXQ_API_KEY, where the gateway has keys
python django_view.py runserver 8000
curl -F picture=@cat.jpg http://127.0.0.1:8000/labels
"""

import os
import sys
from functools import cache

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from alexq import Client, FailedError, RejectedError, WaitTimeoutError

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    SECRET_KEY=os.environ.get("DJANGO_SECRET_KEY") or os.urandom(32).hex(),
)


@cache
def alexq() -> Client:
    """Return the process's client: made at the first request, shared by all threads."""
    return Client()


@csrf_exempt  # no browser with a session sends this; leave it out for a form of your own
@require_POST
def label(request: HttpRequest) -> JsonResponse:
    picture = request.FILES.get("picture")
    if picture is None:
        return JsonResponse({"error": "send a file named picture"}, status=400)
    try:
        job = alexq().classify(picture.file, timeout_s=30)
    except RejectedError as error:  # no picture, for one
        return JsonResponse({"error": error.detail}, status=422)
    except WaitTimeoutError as error:  # the job goes on; a service that must have it asks again
        return JsonResponse({"error": error.detail}, status=504)
    except FailedError as error:
        return JsonResponse({"error": error.detail}, status=503)
    if job.error is not None:  # accepted, but broken further inside
        return JsonResponse({"error": job.error.detail}, status=422)
    return JsonResponse({"label": job.label, "probability": job.probability})


urlpatterns = [path("labels", label)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
