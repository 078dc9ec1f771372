"""What this host has: doctor's findings, installed packages."""
