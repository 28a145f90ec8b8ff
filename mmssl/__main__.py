"""`python -m mmssl` is `mmssl`."""

import sys

from mmssl.cli import main

sys.exit(main())
