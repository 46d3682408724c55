"""``python -m cli``: the ``rwm`` command, as torchrun and Isaac Lab's Python start it."""

from cli.main import run

run()
