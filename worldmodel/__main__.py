"""`python -m worldmodel VERB [flags]`: the console command, where the folder of scripts is not on the path."""

from worldmodel.scripts.cli import main

if __name__ == "__main__":
    main()
