"""The cost of a program on a target: measured if possible, else predicted with an interval."""
