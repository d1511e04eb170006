"""The table from errors to HTTP statuses."""

import json

import pytest

from headrace import errors
from headrace.protocols import status


def _leaves(kind):
    yield kind
    for each in kind.__subclasses__():
        yield from _leaves(each)


@pytest.mark.parametrize("kind", [each for each in _leaves(errors.HeadraceError) if each.__module__ == errors.__name__])
def test_every_error_of_ours_has_a_status_of_its_own_kind(kind):
    """Mistakes of the caller, and what it may not do, are 4xx, failures of ours 5xx; temporary ones 503 or 504."""
    code = status.http_status(kind("text"))
    if issubclass(
        kind,
        errors.InvalidRequest
        | errors.Conflict
        | errors.NotFound
        | errors.TooLarge
        | errors.SettingsError
        | errors.Unauthenticated
        | errors.Forbidden
        | errors.Throttled,
    ):
        assert 400 <= code < 500
    elif issubclass(kind, errors.Temporary):
        assert code in {503, 504}
    else:
        assert code in {500, 501}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidRequest("x"), 400),
        (errors.UnsupportedEncoding("x"), 415),
        (errors.TooLarge("x"), 413),
        (errors.ModelNotFound("x"), 404),
        (errors.NotSupported("x"), 501),
        (errors.RuntimeFailed("x"), 500),
        (errors.UnsafeArtifact("x"), 500),
        (errors.ModelNotReady("x"), 503),
        (errors.Overloaded("x"), 503),
        (errors.DeadlineExceeded("x"), 504),
        (errors.WorkerDied("x"), 503),
        (errors.HeadraceError("x"), 500),
        (KeyError("x"), 500),
    ],
    ids=lambda value: type(value).__name__,
)
def test_statuses(error, code):
    """The status is that of the nearest class of the table."""
    assert status.http_status(error) == code


def test_what_is_not_ours_is_told_by_type_only():
    """A foreign error's text, which may hold a secret, stays inside."""
    assert status.public_text(ValueError("password=1")) == "internal error: ValueError"
    assert status.public_text(errors.NotFound("no model 'x'")) == "no model 'x'"


def test_an_error_body_is_json_whatever_the_text():
    """Half of a surrogate pair does not break the reply."""
    assert json.loads(status.error_body("a \udc80 b")) == {"error": "a ? b"}


@pytest.mark.parametrize(("chosen", "status"), [(418, 418), (599, 599), (200, 500), (0, 500), (600, 500)])
def test_a_status_that_the_model_chose_is_the_replys(chosen, status):
    """An error's own status holds where it is one of an error."""
    from headrace.protocols.status import http_status

    assert http_status(errors.ModelError("x", status=chosen)) == status
