#!/usr/bin/env python3
"""Has pkilint's own commands judge certificates (.cer), CRLs (.crl) and OCSP responses (.ocsp), all in one process.

Usage: lint.py FILE...; prints a line for each file, or what was found; the exit code is 1 where there is an error.
"""

import contextlib
import io
import pathlib
import sys

from pkilint.bin import lint_crl, lint_ocsp_response, lint_pkix_cert

LINTS = {
    ".cer": (lint_pkix_cert.main, []),
    ".crl": (lint_crl.main, ["-t", "CRL", "-p", "PKIX"]),
    ".ocsp": (lint_ocsp_response.main, []),
}


def findings(path):
    """What is wrong with a file; an empty text where nothing is."""
    command, options = LINTS[path.suffix]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            count = command(["lint", *options, "-s", "ERROR", str(path)])
    except (Exception, SystemExit) as failure:  # One that cannot be judged is a fault too, whatever the reason.
        return f"{said.getvalue()}{failure!r}"
    return said.getvalue().strip() or f"{count} findings" if count else ""


def main():
    """Judges all files."""
    faults = 0
    for path in map(pathlib.Path, sys.argv[1:]):
        found = findings(path)
        faults += bool(found)
        print(f"pkilint: {path.name}: {found or 'no errors'}", flush=True)
    return 1 if faults else 0


sys.exit(main())
