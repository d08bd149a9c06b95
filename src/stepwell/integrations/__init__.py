"""Other libraries' names, for what stepwell does. Each part is imported by who wants it, and by nobody else."""
