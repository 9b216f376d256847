"""Which problem each exception of the rooms, the database and the web framework is told as: the one place for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException

from api.errors import ApiError, ErrorCode, problem
from api.findings import Finding, of_refusal, of_validation
from api.limits import BodyTooLargeError
from products import errors as products
from products import localisation_errors as localisation
from products.dossier import BadDocumentError
from products.indicator import YearWithoutTargetError
from products.initiatives import FutureMeasurementError, InitiativeNotFoundError, InitiativeTakenError
from products.kpi import BadInitiativeError, FutureError
from products.registers_service import DossierConflictError, DossierNotFoundError
from products.reports.archive import ReportNotFoundError
from products.reports.build import NotOfferedError
from quota.policy import PolicyError
from quota.service import AwardRefusedError, NoPolicyError, PolicyExistsError
from scheduler.acts import ActNotFoundError, ActRefusedError
from scheduler.dispatch.executor import ExecutorError, RefusedError
from scheduler.dispatch.limits import MAX_BUNDLE_BYTES
from scheduler.jobs import BundleRefusedError, JobNotFoundError, JobRefusedError, JobStateError
from scheduler.nodes import NodeNotFoundError
from tenants import errors as tenants
from tenants.identifiers import IdentifierError

log = logging.getLogger(__name__)


_OF_STATUS: Final = {
    401: ErrorCode.UNAUTHENTICATED,
    403: ErrorCode.FORBIDDEN,
    404: ErrorCode.NOT_FOUND,
    405: ErrorCode.METHOD_NOT_ALLOWED,
    413: ErrorCode.BODY_TOO_LARGE,
    415: ErrorCode.UNSUPPORTED_MEDIA,
}
"""Codes of the errors that the web framework itself raises."""
_Convert = Callable[[Exception], "ApiError"]


def translate(error: Exception) -> ApiError | None:
    """The refusal that an exception of a room stands for; None for one that is none."""
    for kinds, convert in _TRANSLATIONS:
        if isinstance(error, kinds):
            return convert(error)
    return None


def _coded(error: Exception) -> ApiError:
    """Exceptions that carry a code of the same name."""
    numbers: object = getattr(error, "numbers", None)
    return ApiError(
        ErrorCode(str(getattr(error, "code", ""))),
        str(error),
        numbers=numbers if isinstance(numbers, Mapping) else None,
    )


def _refused_job(error: Exception) -> ApiError:
    if not isinstance(error, JobRefusedError):
        return _coded(error)
    if error.code in {"BAD_JOB", "WALLTIME_MISSING"}:
        place = "walltime_s" if error.code == "WALLTIME_MISSING" else str(error.numbers.get("field", ""))
        found = of_refusal(f"body.{place}", str(error), error.numbers)
        return ApiError(ErrorCode.VALIDATION, str(error), numbers=error.numbers, errors=[found])
    if error.code == "BUNDLE_UNKNOWN":
        return ApiError(ErrorCode.BUNDLE_MISSING, str(error), numbers=error.numbers)
    return _coded(error)


def _bundle(error: Exception) -> ApiError:
    size_bytes, max_bytes = int(getattr(error, "size_bytes", 0)), int(getattr(error, "max_bytes", 0))
    code = ErrorCode.BODY_TOO_LARGE if size_bytes > max_bytes else ErrorCode.BUNDLE_INVALID
    return ApiError(code, str(error), numbers={"size_bytes": size_bytes, "limit_bytes": max_bytes})


def _policy(error: Exception) -> ApiError:
    if not isinstance(error, PolicyError):
        return _coded(error)
    return ApiError(ErrorCode(error.code.value), str(error), errors=[Finding(error.path, error.message)])


def _fixed(code: ErrorCode) -> _Convert:
    def convert(error: Exception) -> ApiError:
        return ApiError(code, str(error))

    return convert


def _unsuitable(error: Exception) -> ApiError:
    field_name = str(getattr(error, "field", ""))
    return ApiError(ErrorCode.VALIDATION, str(error), errors=[Finding(f"body.{field_name}", str(error))])


def _not_found(error: Exception) -> ApiError:
    is_project = isinstance(error, tenants.NotFoundError) and error.what == "project"
    return ApiError(ErrorCode.UNKNOWN_PROJECT if is_project else ErrorCode.NOT_FOUND, str(error))


def _executor(error: Exception) -> ApiError:
    if isinstance(error, RefusedError) and error.code == "NOT_FOUND":
        return ApiError(
            ErrorCode.OUTPUT_NOT_FOUND, f"{error}; the node keeps no such file any more, or never had it"
        )
    return ApiError(ErrorCode.AGENT_UNREACHABLE, str(error))


def _year(error: Exception) -> ApiError:
    numbers = {name: int(getattr(error, name)) for name in ("year", "first", "last")}
    return ApiError(ErrorCode.YEAR_WITHOUT_TARGET, str(error), numbers=numbers)


def _database(_error: Exception) -> ApiError:
    return ApiError(ErrorCode.UNAVAILABLE, "the database does not answer; try again, or ask an operator")


_TRANSLATIONS: Final[tuple[tuple[tuple[type[Exception], ...], _Convert], ...]] = (
    ((tenants.AuthenticationError, AwardRefusedError, NoPolicyError), _coded),
    ((JobRefusedError,), _refused_job),
    ((JobStateError,), _fixed(ErrorCode.CONFLICT)),
    ((ActRefusedError,), _fixed(ErrorCode.VALIDATION)),
    ((BundleRefusedError,), _bundle),
    ((PolicyError,), _policy),
    ((PolicyExistsError, tenants.TakenError, products.ProductTakenError), _fixed(ErrorCode.CONFLICT)),
    ((products.ProductStateError, products.NotDueError), _fixed(ErrorCode.CONFLICT)),
    (
        (products.SectorFixedError, products.JobUnlinkedError, InitiativeTakenError),
        _fixed(ErrorCode.CONFLICT),
    ),
    (
        (
            tenants.NotFoundError,
            JobNotFoundError,
            ActNotFoundError,
            NodeNotFoundError,
            products.ProductNotFoundError,
        ),
        _not_found,
    ),
    ((products.JobNotLinkedError, InitiativeNotFoundError), _fixed(ErrorCode.NOT_FOUND)),
    ((products.NoSuchFileError,), _fixed(ErrorCode.OUTPUT_NOT_FOUND)),
    ((products.DigestMismatchError,), _fixed(ErrorCode.DIGEST_MISMATCH)),
    ((products.TooManyJobsError, BadInitiativeError), _fixed(ErrorCode.VALIDATION)),
    ((FutureError, FutureMeasurementError), _fixed(ErrorCode.IN_FUTURE)),
    ((tenants.UnsuitableError,), _unsuitable),
    ((IdentifierError,), _fixed(ErrorCode.BAD_BIN)),
    ((products.NotIndependentError,), _fixed(ErrorCode.NOT_INDEPENDENT)),
    ((products.JobsNotOfProjectError,), _fixed(ErrorCode.JOBS_NOT_OF_PROJECT)),
    ((YearWithoutTargetError,), _year),
    ((BadDocumentError,), _fixed(ErrorCode.BAD_DOCUMENT)),
    ((localisation.ZeroTotalError,), _fixed(ErrorCode.NO_PAYMENTS)),
    ((localisation.MissingRateError,), _fixed(ErrorCode.RATE_MISSING)),
    ((localisation.PeriodError, localisation.NotInForceError), _fixed(ErrorCode.BAD_PERIOD)),
    ((localisation.LocalisationError,), _fixed(ErrorCode.BAD_BOOKS)),
    ((NotOfferedError,), _fixed(ErrorCode.REPORT_NOT_OFFERED)),
    ((DossierConflictError,), _fixed(ErrorCode.CONFLICT)),
    ((DossierNotFoundError, ReportNotFoundError), _fixed(ErrorCode.NOT_FOUND)),
    ((ExecutorError,), _executor),
    ((OperationalError, PoolTimeoutError), _database),
)
"""First match wins; an exception that is not here is a fault of the platform (INTERNAL)."""


def install(app: FastAPI) -> None:
    """Make every error of the application a problem document."""
    expected = {kind for kinds, _ in _TRANSLATIONS for kind in kinds}
    for kind in (ApiError, RequestValidationError, HTTPException, *sorted(expected, key=str), Exception):
        app.add_exception_handler(kind, _answer)


def _answer(request: Request, error: Exception) -> JSONResponse:
    headers: Mapping[str, str] | None = None
    if isinstance(error, ApiError):
        found: ApiError | None = error
    elif isinstance(error, RequestValidationError):
        found = _invalid(request, error)
    elif isinstance(error, HTTPException):
        found, headers = _http(error), error.headers
    else:
        found = translate(error)
    if found is None:
        # The edge of the process: what nobody expected is logged with its trace, and told without it.
        log.error("request %s %s failed", request.method, request.url.path, exc_info=error)
        found = ApiError(
            ErrorCode.INTERNAL, "the platform failed; tell an operator the instance of this problem"
        )
    return problem(request, found, headers)


def _http(error: HTTPException) -> ApiError:
    """What the web framework and the body limit refuse."""
    if isinstance(error, BodyTooLargeError):
        # An upload is cut off a little above the bundle's own limit; the one to keep to is that of the bundle.
        limit_bytes = min(error.limit_bytes, MAX_BUNDLE_BYTES)
        detail = f"the body is larger than {limit_bytes} bytes; send less, and data sets not at all"
        return ApiError(ErrorCode.BODY_TOO_LARGE, detail, numbers={"limit_bytes": limit_bytes})
    code = _OF_STATUS.get(error.status_code, ErrorCode.BAD_REQUEST)
    return ApiError(code, _HTTP_DETAIL.get(code, error.detail))


_HTTP_DETAIL: Final = {
    ErrorCode.NOT_FOUND: "there is nothing at this address; the addresses are listed in /openapi.json",
    ErrorCode.METHOD_NOT_ALLOWED: "this address does not take that method; the header Allow lists those it takes",
}


def _clean(text: str) -> str:
    """The text without what UTF-8 cannot carry: a caller's lone surrogates must not break the answer."""
    return text.encode("utf-8", "replace").decode()


def _invalid(request: Request, error: RequestValidationError) -> ApiError:
    found = [
        of_validation(_clean(".".join(str(part) for part in item["loc"])), item) for item in error.errors()
    ]
    if any(item["type"] == "json_invalid" for item in error.errors()):
        return ApiError(ErrorCode.BAD_REQUEST, "the body is no JSON; check its syntax", errors=found)
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    has_body = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    if has_body and media != "application/json" and request.method in {"POST", "PUT", "PATCH"}:
        return ApiError(
            ErrorCode.UNSUPPORTED_MEDIA,
            f"the body's type is {media or 'not stated'}; send JSON with `Content-Type: application/json`",
        )
    first = found[0]
    return ApiError(
        ErrorCode.VALIDATION,
        f"{first.place}: {first.message}" + (f" (and {len(found) - 1} more)" if len(found) > 1 else ""),
        errors=found,
    )
