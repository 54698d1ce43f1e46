"""How fast models are on this machine: compiled programs, timed side by side."""
