"""``python -m lfpose_edge`` is ``lfpose``, for launchers that start modules."""

from lfpose_edge.cli.main import main

if __name__ == "__main__":
    main()
