"""``consilo model``: what is decided of a registered model, and the card that proves it."""

from __future__ import annotations

from consilo.cli import group
from flows.commands.review import card, decide

model_app = group("A registered model: what is decided of it, by whom, the way back, and its card.")
model_app.command("list")(decide.list_models)
model_app.command("propose")(decide.propose)
model_app.command("request")(decide.request)
model_app.command("sign")(decide.sign)
model_app.command("approve")(decide.approve)
model_app.command("reject")(decide.reject)
model_app.command("rollback")(decide.rollback)
model_app.command("card")(card.card)
model_app.command("verify")(card.verify)
