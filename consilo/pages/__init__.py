"""How pages are drawn and guarded: the silo's and the federation's, in one way.

Drawn on the server (Jinja, escaped), pictures as SVG with their numbers as a table, one style sheet
and one script, both our own: nothing is asked of another host, nothing is written into the page as
script or style, so that the content security policy can forbid both.
"""
