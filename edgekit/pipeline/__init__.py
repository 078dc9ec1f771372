"""Build, check, bench, init: the only place where the rooms are wired together."""
