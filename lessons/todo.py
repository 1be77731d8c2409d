"""What an exercise raises until it is filled in."""


class Todo(NotImplementedError):
    """`raise Todo("what to build")` marks a stub: a check reports it as something to do, not as a mistake."""
