"""`python -m neox_eqx.harness` is `neox-eqx evaluate`."""

import sys

from neox_eqx.cli.main import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
