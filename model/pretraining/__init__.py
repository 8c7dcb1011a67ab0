"""How the embedded nano base was made: `python -m model.pretrain`. Nothing here runs at a site."""
