"""Speed and memory, side by side with peers: `python -m bench step`, `memory`, `start`, `checkpoint`, `table`."""
