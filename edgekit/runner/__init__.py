"""The client of the native runners' protocol (docs/runner.md), over any transport."""
