"""HDF5: datasets of a file that a stranger may have made, parsed in a process of its own. `file` is the door."""
