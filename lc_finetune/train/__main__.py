"""`python -m lc_finetune.train` is `lc-finetune train`."""

import sys

from lc_finetune.cli import main

sys.exit(main(["train", *sys.argv[1:]]))
