"""What `audit_async.tlog` offers, with and without the package that verifies signatures."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from audit_async import tlog
from audit_async.errors import AuditError
from audit_async.tlog import failures

#: Begins a program in which `cryptography` can't be imported.
WITHOUT = "import sys; sys.modules['cryptography'] = None\n"


def run(program: str) -> str:
    """Run a program in a new interpreter and return what it printed."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_error_can_be_caught_by_its_public_name() -> None:
    """No error of the transparency log is reachable through a private module only."""
    errors = {
        name
        for name, value in vars(failures).items()
        if inspect.isclass(value) and issubclass(value, AuditError) and value is not AuditError
    }
    assert errors <= set(tlog.__all__)


def test_a_name_that_is_not_offered_is_an_attribute_error() -> None:
    """A mistyped name fails like that of any other module."""
    with pytest.raises(AttributeError, match=r"module 'audit_async\.tlog' has no attribute 'Polciy'"):
        tlog.Polciy  # type: ignore[attr-defined]  # noqa: B018 - that is the point


def test_importing_the_package_imports_no_cryptography() -> None:
    """Who only catches an error does not pay for verifying signatures."""
    program = "import sys; from audit_async.tlog import LogForked; print('cryptography' in sys.modules)"
    assert run(program) == "False\n"


def test_formats_are_read_without_cryptography() -> None:
    """Errors, proofs, policies and keys can be parsed without the extra; hashes can be checked."""
    program = (
        "from audit_async.tlog import ExternalKey, LogForked, Policy, TlogProof, VerifierKey, verify_inclusion\n"
        "key = VerifierKey.of('log.example/a', bytes(32))\n"
        "assert VerifierKey.parse(str(key)) == key\n"
        "print(Policy.of([key]).quorum)"
    )
    assert run(WITHOUT + program) == "None\n"


@pytest.mark.parametrize(
    "use",
    [
        "tlog.load_signer",
        "tlog.new_key",
        "tlog.VerifierKey.of('a', bytes(32)).verify('text\\n', tlog.Signature('a', bytes(4), bytes(64)))",
        "privacy.new_master_key",
        "privacy.SqliteKeyStore",
    ],
)
def test_without_cryptography_what_needs_it_says_so(use: str) -> None:
    """Signing, verifying and sealing raise `ImportError`, which says what to install."""
    program = f"from audit_async import privacy, tlog\ntry:\n    {use}\nexcept ImportError as error:\n    print(error)"
    message = run(WITHOUT + program)
    assert "needs the package cryptography" in message
    assert f"pip install 'audit-async[{use.partition('.')[0]}]'" in message
