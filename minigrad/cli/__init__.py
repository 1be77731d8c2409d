"""The command line: the roof of the house. It may import anything, inside functions."""
