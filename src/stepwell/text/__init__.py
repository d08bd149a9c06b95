"""What is said to a user, and read from one: names, numbers, tables and TOML as text."""
