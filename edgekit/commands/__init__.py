"""One verb a file: what each command does, called by the command line and by Python."""
