"""The program beside an application: chooses a model for each request, forwards it, books its cost."""
