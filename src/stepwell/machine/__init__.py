"""Machine code of ours: compiled once a machine, kept in the user's cache folder, run in torch's threads."""
