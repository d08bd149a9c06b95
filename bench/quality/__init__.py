"""`python -m bench quality` and `evidence`: does it train better? The protocol of docs/evidence.md, run and written."""
