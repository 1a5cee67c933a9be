"""``python -m forgetting.cli``."""

from forgetting.cli import main

if __name__ == "__main__":
    main()
