"""Every error that rigserve says over HTTP, in one tree.

ApiError                       status  code
 ├─ InvalidValue                  400  invalid_value (param set)
 │   ├─ ContextLengthExceeded     400  context_length_exceeded
 │   └─ ImageTooLarge             400  image_too_large
 ├─ InvalidApiKey                 401  invalid_api_key
 ├─ PermissionDenied              403  permission_denied
 ├─ RouteNotFound                 404  route_not_found
 ├─ MethodNotAllowed              405  method_not_allowed
 ├─ ModelNotFound                 404  model_not_found
 ├─ IdempotencyConflict           409  idempotency_conflict
 ├─ BodyTooLarge                  413  body_too_large
 ├─ HeadersTooLarge               431  headers_too_large
 ├─ ModelDoesNotFit               422  model_does_not_fit (+ fit)
 ├─ QueueFull                     429  queue_full (Retry-After)
 ├─ RateLimited                   429  rate_limit_exceeded (Retry-After, x-ratelimit-*)
 │   └─ QuotaExceeded             429  insufficient_quota
 ├─ InternalError                 500  internal_error
 ├─ BackendOutOfMemory            500  backend_out_of_memory
 ├─ BackendFailed                 502  backend_failed
 ├─ BackendStarting               503  backend_starting (Retry-After)
 ├─ NoAvailableWorker             503  no_available_worker (Retry-After)
 ├─ TooManyConnections            503  too_many_connections (Retry-After)
 ├─ KeysUnavailable               503  keys_unavailable (Retry-After)
 └─ DeadlineExceeded              504  timeout

The body is always `{"error": {"message", "type", "param", "code"}}`, the shape that the OpenAI SDKs parse. They retry 408, 409,
429 and >= 500 unless `x-should-retry: false`; so a retry that can't help is switched off here, where the error is defined.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar


class ApiError(Exception):
    """Base of the tree. `extra` is merged beside "error" in the body (the fit reports of a 422)."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "api_error"
    code: ClassVar[str] = "internal_error"
    should_retry: ClassVar[bool | None] = None

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: float | None = None, extra: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.extra = extra or {}

    def body(self) -> dict[str, Any]:
        """The JSON body, ready to encode."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}, **self.extra}

    def headers(self) -> dict[str, str]:
        """Retry advice: whole seconds, rounded up, at most 120 (the SDKs give up above that)."""
        headers = {}
        if self.should_retry is not None:
            headers["x-should-retry"] = "true" if self.should_retry else "false"
        if self.retry_after_s is not None:
            headers["retry-after"] = str(max(1, min(120, math.ceil(self.retry_after_s))))
        return headers


class InvalidValue(ApiError):
    status, type, code, should_retry = 400, "invalid_request_error", "invalid_value", False


class ContextLengthExceeded(InvalidValue):
    code = "context_length_exceeded"


class ImageTooLarge(InvalidValue):
    code = "image_too_large"


class InvalidApiKey(ApiError):
    status, type, code, should_retry = 401, "authentication_error", "invalid_api_key", False


class PermissionDenied(ApiError):
    status, type, code, should_retry = 403, "permission_error", "permission_denied", False


class RouteNotFound(ApiError):
    status, type, code, should_retry = 404, "invalid_request_error", "route_not_found", False


class MethodNotAllowed(ApiError):
    status, type, code, should_retry = 405, "invalid_request_error", "method_not_allowed", False


class ModelNotFound(ApiError):
    status, type, code, should_retry = 404, "invalid_request_error", "model_not_found", False


class IdempotencyConflict(ApiError):
    """`answered`: sending it again can't help."""

    status, type, code = 409, "invalid_request_error", "idempotency_conflict"

    def __init__(self, message: str, *, retry_after_s: float | None = None, answered: bool = False) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.answered = answered

    def headers(self) -> dict[str, str]:
        return super().headers() | ({"x-should-retry": "false"} if self.answered else {})


class BodyTooLarge(ApiError):
    status, type, code, should_retry = 413, "invalid_request_error", "body_too_large", False


class HeadersTooLarge(ApiError):
    status, type, code, should_retry = 431, "invalid_request_error", "headers_too_large", False


class ModelDoesNotFit(ApiError):
    status, type, code, should_retry = 422, "invalid_request_error", "model_does_not_fit", False


class QueueFull(ApiError):
    status, type, code = 429, "rate_limit_error", "queue_full"


class RateLimited(ApiError):
    """A limit of the key. `limit_headers`: the limit in numbers, as x-ratelimit-*."""

    status, type, code = 429, "rate_limit_error", "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_s: float | None = None, limit_headers: dict[str, str] | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.limit_headers = limit_headers or {}

    def headers(self) -> dict[str, str]:
        return super().headers() | self.limit_headers


class QuotaExceeded(RateLimited):
    """As RateLimited, for longer than a client waits."""

    code, should_retry = "insufficient_quota", False


class InternalError(ApiError):
    status, type, code = 500, "api_error", "internal_error"


class BackendOutOfMemory(ApiError):
    status, type, code, should_retry = 500, "api_error", "backend_out_of_memory", False


class BackendFailed(ApiError):
    status, type, code = 502, "api_error", "backend_failed"


class BackendStarting(ApiError):
    status, type, code = 503, "api_error", "backend_starting"


class NoAvailableWorker(ApiError):
    status, type, code = 503, "api_error", "no_available_worker"


class KeysUnavailable(ApiError):
    status, type, code = 503, "api_error", "keys_unavailable"


class TooManyConnections(ApiError):
    status, type, code = 503, "api_error", "too_many_connections"


class DeadlineExceeded(ApiError):
    status, type, code = 504, "api_error", "timeout"
