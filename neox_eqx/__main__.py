"""`python -m neox_eqx` is `neox-eqx`."""

from neox_eqx.cli.main import main

if __name__ == "__main__":
    main()
