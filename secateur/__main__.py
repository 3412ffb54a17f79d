"""`python -m secateur` is `secateur`, for when its script is not on the PATH."""

from secateur.cli import app

app(prog_name="secateur")
