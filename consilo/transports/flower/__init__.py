"""The Flower transport: the only place that leans on Flower's internals.

- `superlink`: how to start the coordinator's SuperLink, and who is registered there;
- `transport`: the coordinator's end, held by a flow;
- `fleet`: the silo's end, held by its node;
- `bundle`: the code that travels, by its hash;
- `doorbell`: waiting for messages without polling;
- `mail`: a message and its content in one call.

Every module calls `require_flower` before it touches Flower.
"""
