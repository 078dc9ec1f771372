"""What scripts/emulated_pi.py is made of. Standard library only."""
