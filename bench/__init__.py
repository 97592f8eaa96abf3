"""mesh beside its floors, on one machine and in one run: `python -m bench --help`."""
