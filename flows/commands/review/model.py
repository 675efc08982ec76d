"""``consilo model``: a registered model's card, and whether it is what its record says."""

from __future__ import annotations

from consilo.cli import group
from flows.commands.review import card as card_commands

model_app = group("A registered model: its card, and whether all of it is what the record says.")
model_app.command("card")(card_commands.card)
model_app.command("verify")(card_commands.verify)
