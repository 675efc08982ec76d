"""Who belongs to a federation: invited, admitted, renewed, suspended, removed. Both halves.

`members` and `coordinator` are the coordinator's; `gate` and `door` stand in its SuperLink before
Flower's application; `invitation` and `calls` are spoken by both sides.
"""
