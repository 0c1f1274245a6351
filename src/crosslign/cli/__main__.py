"""`python -m crosslign.cli`, which `accelerate launch -m` and torchrun call."""

import sys

from crosslign.cli import main

sys.exit(main())
