"""Every error that alexq raises, in one tree; over 300 lines, because the tree is looked up as a whole.

    AlexqError
    ├── RejectedError                  the caller's fault: never retried
    │   ├── ImageError                 one image cannot be classified
    │   │   ├── ImageNotFoundError         no such file or key
    │   │   ├── ImageUnreadableError       the file is there but cannot be read
    │   │   ├── ImageEmptyError            0 bytes
    │   │   ├── ImageTooLargeError         more bytes than allowed
    │   │   ├── ImageTypeError             not JPEG, PNG, WebP or GIF
    │   │   ├── ImageTruncatedError        the file ends before the picture does
    │   │   ├── ImageCorruptError          the bytes are not a valid picture
    │   │   ├── ImageTooManyPixelsError    a decompression bomb, or simply huge
    │   │   ├── ImageUrlError              a URL that is not fetched, or at which there is no image
    │   │   ├── ImageModeError             pixels that have no 8-bit RGB form (16-bit grey, float)
    │   │   └── ImageAnimatedError         more than one frame
    │   ├── MessageError               a message of unknown version or shape
    │   ├── JobNotFoundError           no job or submission has this id, or it is another tenant's
    │   ├── WebhookNotFoundError       no webhook has this id, or it is another tenant's
    │   ├── JobStateError              the job's state does not allow what was asked
    │   ├── RequestError               an HTTP request that makes no sense
    │   │   ├── UnauthenticatedError       no valid API key
    │   │   ├── ForbiddenError             the key's scopes do not allow it
    │   │   ├── RouteNotFoundError         no such path
    │   │   ├── MethodNotAllowedError      the path is there, the method is not
    │   │   ├── RequestTooLargeError       more bytes or more images than one request may carry
    │   │   ├── MediaTypeError             a body of a type that this path does not take
    │   │   └── IdempotencyKeyReusedError  the key belongs to an earlier request with other content
    │   ├── DatasetError               labelled pictures that nothing can be learnt from
    │   ├── PinnedModelError           a job names a model version that there is not
    │   ├── OutwardRefusedError        a URL that somebody gave is none that alexq goes to
    │   └── UsageError                 an argument that makes no sense
    └── FailedError                    ours: the caller did nothing wrong
        ├── UnavailableError           a service does not answer; try again
        │   ├── GatewayUnavailableError    the HTTP gateway, or what is between it and the client
        │   ├── BrokerUnavailableError
        │   ├── DatabaseUnavailableError
        │   │   └── DatabaseFullError      SQLite's disk is full, failing or read-only
        │   ├── ImageStoreError
        │   └── OutwardUnavailableError    the server of a URL that somebody gave
        ├── ThrottledError             not now: the same request may be taken later
        │   ├── RateLimitedError           the tenant has handed in as many images as it may in this time
        │   ├── QuotaExceededError         the tenant has as much unfinished as it may have
        │   └── QueueFullError             what waits already would take too long
        ├── RequestTimeoutError        a request's body came too slowly
        ├── IdempotencyKeyBusyError    the first request with this key is still being served
        ├── ImageLostError             the store no longer has, or has damaged, an accepted image
        ├── EngineError                the model failed on a batch
        │   └── DeviceMemoryError          the batch was too large for the device's memory
        ├── WorkerCrashedError         the worker's process died while it held the job
        ├── DeadlineError              no worker was free before the job's deadline
        ├── ModelError                 a model version cannot be used
        │   ├── ModelNotFoundError
        │   ├── ModelInvalidError          tampered, truncated or mismatched files
        │   ├── ModelDownloadError
        │   ├── ModelNotReadyError         asked to classify before warm-up, or without a worker
        │   └── TrainingError              a training cannot begin, go on or learn
        │       └── TrainingBusyError          another process trains this version now
        ├── DeviceError                the device asked for is not there
        ├── SettingsError              a setting is missing or wrong
        ├── MigrationError             the database is not at this release's schema
        ├── StackError                 the embedded stack could not be started or kept
        │   ├── StackNotRunningError
        │   └── StackRunningError
        └── WaitTimeoutError           the job did not finish in the time given; it goes on

``code`` is stable and travels in results; ``is_retryable`` says whether the same call may
succeed later without change. The module is longer than 300 lines because a tree of errors is read whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar


class AlexqError(Exception):
    """The root. ``str(error)`` says what was wrong, with which input, and what to do."""

    code: ClassVar[str] = "error"
    is_retryable: ClassVar[bool] = False

    @property
    def detail(self) -> str:
        """The text for people."""
        return str(self)


class RejectedError(AlexqError):
    """The caller's fault: the same call will fail again."""

    code = "rejected"


class ImageError(RejectedError):
    """One image cannot be classified."""

    code = "image_rejected"


class ImageNotFoundError(ImageError):
    """There is no file or key of this name."""

    code = "image_not_found"


class ImageUnreadableError(ImageError):
    """The file is there but cannot be read."""

    code = "image_unreadable"


class ImageEmptyError(ImageError):
    """The image has 0 bytes."""

    code = "image_empty"


class ImageTooLargeError(ImageError):
    """The image has more bytes than ``ALEXQ_MAX_IMAGE_BYTES``."""

    code = "image_too_large"


class ImageTypeError(ImageError):
    """The first bytes are of no accepted type."""

    code = "image_type_unsupported"


class ImageTruncatedError(ImageError):
    """The file ends before the picture does."""

    code = "image_truncated"


class ImageCorruptError(ImageError):
    """The bytes are not a valid picture of the type they claim."""

    code = "image_corrupt"


class ImageTooManyPixelsError(ImageError):
    """Width × height is above ``ALEXQ_MAX_IMAGE_PIXELS``."""

    code = "image_too_many_pixels"


class ImageUrlError(ImageError):
    """The image's URL is none that the gateway fetches, or there is nothing at it."""

    code = "image_url_refused"


class ImageModeError(ImageError):
    """The pixels have no faithful 8-bit RGB form."""

    code = "image_mode_unsupported"


class ImageAnimatedError(ImageError):
    """The image has more than one frame."""

    code = "image_animated"


class MessageError(RejectedError):
    """A message of unknown version or shape."""

    code = "message_invalid"


class JobNotFoundError(RejectedError):
    """No job or submission has this id, or it is another tenant's."""

    code = "job_not_found"


class WebhookNotFoundError(RejectedError):
    """No webhook has this id, or it is another tenant's."""

    code = "webhook_not_found"


class JobStateError(RejectedError):
    """The job's state does not allow what was asked."""

    code = "job_state"


class RequestError(RejectedError):
    """An HTTP request that makes no sense."""

    code = "request_invalid"


class UnauthenticatedError(RequestError):
    """The request carries no valid API key."""

    code = "unauthenticated"


class ForbiddenError(RequestError):
    """The API key's scopes do not allow the request, or the request comes from where it must not."""

    code = "forbidden"


class RouteNotFoundError(RequestError):
    """The gateway has no such path."""

    code = "route_not_found"


class MethodNotAllowedError(RequestError):
    """The path is there, but not with this method."""

    code = "method_not_allowed"


class RequestTooLargeError(RequestError):
    """More bytes or more images than one request may carry."""

    code = "request_too_large"


class MediaTypeError(RequestError):
    """A body of a type that this path does not take."""

    code = "media_type_unsupported"


class IdempotencyKeyReusedError(RequestError):
    """The ``Idempotency-Key`` belongs to an earlier request with other content."""

    code = "idempotency_key_reused"


class DatasetError(RejectedError):
    """Labelled pictures that nothing can be learnt or measured from: names every problem and where it is."""

    code = "dataset"


class PinnedModelError(RejectedError):
    """A job names a model version that there is not."""

    code = "pinned_model_unknown"


class OutwardRefusedError(RejectedError):
    """A URL that alexq does not go to, or at which there is nothing for it."""

    code = "outward_refused"


class UsageError(RejectedError):
    """An argument that makes no sense."""

    code = "usage"


class FailedError(AlexqError):
    """Ours: the caller did nothing wrong."""

    code = "failed"


class UnavailableError(FailedError):
    """A service does not answer."""

    code = "unavailable"
    is_retryable = True


class GatewayUnavailableError(UnavailableError):
    """The HTTP gateway does not answer, or something between it and the client does not."""

    code = "gateway_unavailable"


class BrokerUnavailableError(UnavailableError):
    """Redis does not answer."""

    code = "broker_unavailable"


class DatabaseUnavailableError(UnavailableError):
    """The SQL database does not answer."""

    code = "database_unavailable"


class DatabaseFullError(DatabaseUnavailableError):
    """SQLite cannot write: the disk is full, failing or read-only."""

    code = "database_full"


class ImageStoreError(UnavailableError):
    """The image store does not answer, or is full."""

    code = "image_store_unavailable"


class OutwardUnavailableError(UnavailableError):
    """The server of a URL that somebody gave does not answer, or not in time."""

    code = "outward_unavailable"


class ThrottledError(FailedError):
    """The gateway does not take this now."""

    code = "throttled"
    is_retryable = True

    def __init__(self, detail: str, retry_after_s: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s
        """When it may be worth another try, in seconds."""


class RateLimitedError(ThrottledError):
    """The tenant has handed in as many images as ``ALEXQ_GATEWAY_RATE`` allows in this time."""

    code = "rate_limited"


class QuotaExceededError(ThrottledError):
    """The tenant has as many unfinished jobs, or bytes of their images, as it may have."""

    code = "quota_exceeded"


class QueueFullError(ThrottledError):
    """The jobs that wait already would take longer than ``ALEXQ_MAX_DRAIN_S``."""

    code = "queue_full"


class RequestTimeoutError(FailedError):
    """A request's body came too slowly and was cut."""

    code = "request_timeout"
    is_retryable = True


class IdempotencyKeyBusyError(FailedError):
    """The first request with this ``Idempotency-Key`` is still being served."""

    code = "idempotency_key_busy"
    is_retryable = True


class ImageLostError(FailedError):
    """The store no longer has an accepted image, or has damaged it.

    Retryable: a mount that is missing on one host, or a store that lags, looks the same.
    """

    code = "image_lost"
    is_retryable = True


class EngineError(FailedError):
    """The model failed on a batch."""

    code = "engine_failed"
    is_retryable = True


class DeviceMemoryError(EngineError):
    """The batch was too large for the device's memory: a smaller one may do."""

    code = "device_out_of_memory"


class WorkerCrashedError(FailedError):
    """The worker's process died while it held the job."""

    code = "worker_crashed"


class DeadlineError(FailedError):
    """No worker was free before the job's deadline."""

    code = "deadline_passed"


class ModelError(FailedError):
    """A model version cannot be used."""

    code = "model"


class ModelNotFoundError(ModelError):
    """No model version of this name is in the models folder."""

    code = "model_not_found"


class ModelInvalidError(ModelError):
    """The files of a model version are tampered with, truncated or do not fit together."""

    code = "model_invalid"


class ModelDownloadError(ModelError):
    """The pretrained weights could not be fetched, or are not what was promised."""

    code = "model_download"
    is_retryable = True


class ModelNotReadyError(ModelError):
    """Asked to classify before ``warm_up`` has succeeded, or while no worker serves the model."""

    code = "model_not_ready"


class TrainingError(ModelError):
    """A training cannot begin, cannot go on from its checkpoint, or learns nothing."""

    code = "training"


class TrainingBusyError(TrainingError):
    """Another process trains the same version now."""

    code = "training_busy"


class DeviceError(FailedError):
    """The device asked for is not there."""

    code = "device"


class SettingsError(FailedError):
    """A setting is missing or wrong."""

    code = "settings"


class MigrationError(FailedError):
    """The database is not at this release's schema."""

    code = "migration"


class StackError(FailedError):
    """The embedded stack could not be started or kept running."""

    code = "stack"


class StackNotRunningError(StackError):
    """No settings name the services and no embedded stack runs in the data folder."""

    code = "stack_not_running"


class StackRunningError(StackError):
    """Another ``alexq up`` already holds this data folder."""

    code = "stack_running"


class WaitTimeoutError(FailedError):
    """The job did not finish in the time given; it goes on."""

    code = "wait_timeout"
    is_retryable = True


def class_of(code: str, unknown: type[AlexqError]) -> type[AlexqError]:
    """Return the error whose code this is, or ``unknown``: a newer release's."""
    return next((kind for kind in _every(AlexqError) if kind.code == code), unknown)


def _every(base: type[AlexqError]) -> Iterator[type[AlexqError]]:
    yield base
    for child in base.__subclasses__():
        yield from _every(child)
