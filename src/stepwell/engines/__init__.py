"""The engines: each runs any rule, by deciding what a number is."""
