"""`python -m mesh` is the command `mesh`. The one module inside `mesh` that may know the command line."""

from mesh_cli import main

if __name__ == "__main__":
    main()
