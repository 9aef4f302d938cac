"""The cases, a module for each kind of question."""
