"""What protects an institution's records, and what proves it.

gRPC has no switch for the lowest TLS version in Python, but it reads its list of TLS 1.2 cipher
suites from the environment, once, when it is first imported. The list set here needs an RSA
certificate, and a federation's certificates are all ECDSA: so no TLS 1.2 handshake can succeed on
either side, while TLS 1.3, whose suites are not on that list, is unaffected. It stands here
because every program of ours imports this package before anything else; and for the same reason
so does the number of threads of numpy's matrix library, which also is read once.
"""

import os
import sys

_SUITES = "ECDHE-RSA-AES256-GCM-SHA384"

# Once gRPC has been imported without the list, setting it changes nothing: `privacy.transit`
# refuses to work then.
GRPC_IS_TLS13_ONLY = (
    "grpc" not in sys.modules or os.environ.get("GRPC_SSL_CIPHER_SUITES") == _SUITES
)
os.environ["GRPC_SSL_CIPHER_SUITES"] = _SUITES
# Otherwise each refused handshake, which any stranger can cause, writes lines to the standard
# error stream.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# Its threads spin for a while after every product of two vectors, on cores that others need. The
# training process is told another number.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
