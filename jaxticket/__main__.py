"""`jaxticket` and `python -m jaxticket`: the command line of `jaxticket.cli`."""

from jaxticket.cli import run as main

if __name__ == "__main__":
    main()
