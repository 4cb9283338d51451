#!/usr/bin/env python3
"""Has pkilint's own commands judge certificates (.cer), CRLs (.crl) and OCSP responses (.ocsp), all in one process.

Usage: lint.py FILE...; prints a line for each file, or what was found; the exit code is 1 where there is an error.

CRLs are decoded with another DER decoder, and with nothing else changed: pkilint decodes with pyasn1-fasder, which holds
each arc of an object identifier in 32 bits and refuses the whole CRL for the one of the log's anchor (2.25 and a UUID of
128 bits, ITU-T X.667). pyasn1's own decoder, on which all of pkilint's types and rules rest, reads it.
"""

import contextlib
import io
import pathlib
import sys

from pkilint import document
from pkilint.bin import lint_crl, lint_ocsp_response, lint_pkix_cert
from pyasn1.codec.der.decoder import decode

LINTS = {
    ".cer": (lint_pkix_cert.main, [], document.decode_der),
    ".crl": (lint_crl.main, ["-t", "CRL", "-p", "PKIX"], decode),
    ".ocsp": (lint_ocsp_response.main, [], document.decode_der),
}


def findings(path):
    """What is wrong with a file; an empty text where nothing is."""
    main, options, document.decode_der = LINTS[path.suffix]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            count = main(["lint", *options, "-s", "ERROR", str(path)])
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
