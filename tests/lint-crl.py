#!/usr/bin/env python3
"""pkilint's `lint_crl` with another DER decoder, and with nothing else changed.

pkilint decodes with pyasn1-fasder, which holds each arc of an object identifier in 32 bits and refuses the whole CRL
for the one of the log's anchor (2.25 and a UUID of 128 bits, ITU-T X.667). pyasn1's own decoder, on which all of
pkilint's types and rules rest, reads it. The arguments are those of `lint_crl`.
"""

import sys

from pkilint import document
from pkilint.bin import lint_crl
from pyasn1.codec.der.decoder import decode

document.decode_der = decode
sys.exit(lint_crl.main())
