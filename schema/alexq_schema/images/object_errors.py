"""What an object store's refusals mean, and what to do about them."""

from __future__ import annotations

from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

from alexq_schema.errors import ImageStoreError

_ABSENT = ("NoSuchKey", "BlobNotFound")
"""What S3, Google's and Azure's stores say of an object that is not there."""
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "InvalidBucketName")
_REFUSED = (
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "AuthenticationFailed",
)
_METADATA = ("/latest/api/token", "/latest/meta-data", "/computeMetadata/", "169.254.")
"""Where obstore looks for credentials that the environment does not have."""


def is_absent(error: Exception) -> bool:
    """Return whether the store itself says that the object is not there; a proxy's 404 says nothing."""
    return isinstance(error, FileNotFoundError) and any(code in str(error) for code in _ABSENT)


def store_error(url: str, error: Exception) -> ImageStoreError:
    """Return the error for people: which store, what it said, what to do."""
    text = str(error).partition("\n\nDebug source")[0].strip()
    return ImageStoreError(f"the image store {url} {_meaning(error, text)}: {' '.join(text.split())[:400]}")


def _meaning(error: Exception, text: str) -> str:
    if any(code in text for code in _NO_BUCKET):
        return "has no such bucket; create it, or correct ALEXQ_IMAGES_URL"
    if any(place in text for place in _METADATA):
        return "found no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run where a role is"
    is_refused = isinstance(error, PermissionDeniedError | UnauthenticatedError)
    if is_refused or any(code in text for code in _REFUSED):
        return "refuses these credentials; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the policy"
    return "does not answer as it should; check AWS_ENDPOINT_URL, AWS_REGION and the network"
