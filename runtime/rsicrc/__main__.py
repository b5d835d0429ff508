"""The command `python -m rsicrc`, which is `rsicrc`."""

from rsicrc.cli.umbrella import main

if __name__ == "__main__":
    main()
