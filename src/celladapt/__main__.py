"""``python -m celladapt``, also what ``torchrun -m celladapt`` starts."""

import sys

from celladapt.cli import main

sys.exit(main())
