"""What a program costs on a target: measured where it can be, else predicted with an interval."""
