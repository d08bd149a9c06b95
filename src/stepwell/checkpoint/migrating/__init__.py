"""From one optimizer's state to another's: other packages' files, and other rules."""
