"""`python -m jaxticket`: the command line of `jaxticket.cli`."""

from jaxticket.cli import main

if __name__ == "__main__":
    main()
